"""The published split of long texts, step by step: which tokenizer decides, where it cuts, what decoding gives."""

TIDY = [(" .", "."), (" ?", "?"), (" !", "!"), (" ,", ","), (" ' ", "'"), (" n't", "n't"), (" 'm", "'m")]
TIDY += [(" 's", "'s"), (" 've", "'ve"), (" 're", "'re")]


def split_text(text, tokenizers, tidy, threshold):
    """`tokenizers`: the target's, then the sources'; `tidy`: whether each one's decoding joins spaced punctuation."""
    tokenised = [tokenizer(text, add_special_tokens=False)["input_ids"] for tokenizer in tokenizers]
    if not any(len(ids) > threshold for ids in tokenised):
        return [text]
    most = max(len(ids) for ids in tokenised)
    decider = [len(ids) == most for ids in tokenised].index(True)  # the first of equals
    ids, tokenizer, tidies = tokenised[decider], tokenizers[decider], tidy[decider]
    pieces = []
    position = 0
    while position < most:
        piece = tokenizer.backend_tokenizer.decode(ids[position : position + threshold], skip_special_tokens=True)
        if tidies:
            for spaced, joined in TIDY:
                piece = piece.replace(spaced, joined)
        pieces.append(piece)
        position += threshold
    return pieces
