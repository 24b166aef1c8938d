"""Matches that need no judgement, on which every strategy builds: equal bytes, equal roles, equal byte tokens."""

from collections.abc import Iterable

import numpy as np

from logitfuse.kernels.vocabulary_map.sparse_map import How, VocabularyMap, VocabularyView, one_to_one

BOUNDARY_ROLES = ("eos", "bos")
SHARED_ROLES = ("unk", "pad", "sep", "cls", "mask")  # often played by the boundary token as well


class Matches:
    """The target id of each source id as far as it is known; strategies fill what is left open."""

    def __init__(self, source: VocabularyView, target: VocabularyView) -> None:
        """Find the matches by role, by byte and by bytes; among equal target pieces the lowest id wins."""
        self.source, self.target = source, target
        self.targets = np.full(len(source.texts), -1, np.int32)
        self.how = np.zeros(len(source.texts), np.int8)
        self.distance = np.full(len(source.texts), -1, np.int32)
        self.id_of = ids_by_text(target)
        self._match_roles()
        self._match_bytes()

    def put(self, source_id: int, target_id: int, how: How, distance: int = -1) -> None:
        """Set one source id's target."""
        self.targets[source_id], self.how[source_id], self.distance[source_id] = target_id, how, distance

    def open_texts(self) -> tuple[dict[int, str], dict[int, bytes]]:
        """Return the unmapped source ids with text: those of whole characters, and those that cut a character."""
        whole: dict[int, str] = {}
        cut: dict[int, bytes] = {}
        for token, text in enumerate(self.source.texts):
            if text is not None and self.targets[token] < 0:
                try:
                    whole[token] = text.decode()
                except UnicodeDecodeError:
                    cut[token] = text
        return whole, cut

    def put_longest_prefixes(self, texts: Iterable[tuple[int, bytes]]) -> None:
        """Send each source id to the longest target piece that its bytes begin with, if there is one."""
        for token, text in texts:
            prefixes = (text[:length] for length in range(len(text), 0, -1))
            found = next((self.id_of[prefix] for prefix in prefixes if prefix in self.id_of), None)
            if found is not None:
                self.put(token, found, How.FIRST_PIECE)

    def finished(self) -> VocabularyMap:
        """Return the map; what is still open stays unmapped."""
        return one_to_one(self.targets, self.how, self.distance)

    def _match_roles(self) -> None:
        boundaries = {self.target.roles[role] for role in BOUNDARY_ROLES if role in self.target.roles}
        for token, role in _leading_roles(self.source).items():
            found = self.target.roles.get(role)
            # A target whose <|endoftext|> is its unknown token too must not end the text where a source has <unk>.
            if found is not None and not (role in SHARED_ROLES and found in boundaries):
                self.put(token, found, How.ROLE)

    def _match_bytes(self) -> None:
        byte_token = {byte: token for token, byte in sorted(self.target.byte_ids.items(), reverse=True)}
        for token, text in enumerate(self.source.texts):
            if text is None:
                continue
            byte = self.source.byte_ids.get(token)
            found = byte_token.get(byte) if byte is not None else None
            found = self.id_of.get(text) if found is None else found
            if found is not None:
                through_byte = byte is not None or found in self.target.byte_ids
                self.put(token, found, How.BYTE if through_byte else How.EXACT, distance=0)


def ids_by_text(vocabulary: VocabularyView) -> dict[bytes, int]:
    """Return the lowest id of each text; a `<0xNN>` token only where no ordinary piece stands for its byte.

    (Llama-2 has b"A" twice, as `<0x41>` and as `A`, and writes the second.)
    """
    ids: dict[bytes, int] = {}
    for token, text in enumerate(vocabulary.texts):
        if text is not None and token not in vocabulary.byte_ids:
            ids.setdefault(text, token)
    for token, byte in sorted(vocabulary.byte_ids.items()):
        ids.setdefault(bytes([byte]), token)
    return ids


def _leading_roles(vocabulary: VocabularyView) -> dict[int, str]:
    """Return id → the one role it is mapped by: the end of the text first, a special token's own spelling last."""
    ranks = {role: rank for rank, role in enumerate((*BOUNDARY_ROLES, *SHARED_ROLES))}
    leading: dict[int, str] = {}
    for role in sorted(vocabulary.roles, key=lambda role: (ranks.get(role, len(ranks)), role)):
        leading.setdefault(vocabulary.roles[role], role)
    return leading
