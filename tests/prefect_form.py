"""The forms of Prefect's pages, filled in as a person does: find the field by its title, type, choose, switch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from playwright.sync_api import Locator, Page

Schema = dict[str, Any]


def _classed(name: str) -> str:
    return f"contains(concat(' ', @class, ' '), ' {name} ')"


FIELDS = f"xpath=(.//div[{_classed('schema-form-properties')}])[1]/div[{_classed('schema-form-property')}]"
TITLE = f"./div[{_classed('p-label__header')}]//span[{_classed('schema-form-property__label')}]"


class Form:
    """The parameters' form inside `place`, of a deployment whose parameters have this schema."""

    def __init__(self, page: Page, place: Locator, schema: Schema) -> None:
        self._page, self._place, self._schema = page, place, schema

    def fill(self, values: Mapping[str, Any]) -> None:
        """Fill in fields by their paths, such as `recipe.sources.0.model`."""
        for path, value in values.items():
            self.put(path, value)

    def put(self, path: str, value: Any) -> None:
        """Give one field a value; None is chosen among the kinds of value that it has."""
        field, schema = self.field(path)
        field.scroll_into_view_if_needed()
        kinds = schema.get("anyOf", [])
        if kinds:
            wanted = next(n for n, kind in enumerate(kinds) if (kind.get("type") == "null") == (value is None))
            field.locator("xpath=./div[2]/div[contains(@class, 'p-button-group')]//button").nth(wanted).click()
        if value is not None:
            self._enter(field.locator("fieldset.schema-form-property__fields").first, value)

    def _enter(self, body: Locator, value: Any) -> None:
        if isinstance(value, bool):
            switch = body.get_by_role("switch")
            if (switch.get_attribute("aria-checked") == "true") != value:
                switch.click()
        elif body.locator(".p-select").count():
            choose(self._page, body, str(value))
        else:
            body.locator("input, textarea").first.fill(str(value))

    def field(self, path: str) -> tuple[Locator, Schema]:
        """Return where a field stands, and its schema."""
        found, schema = self._place, self._schema
        for part in path.split("."):
            inside = self._resolved(schema)
            if part.isdecimal():
                schema = inside["items"] if "items" in inside else inside["prefixItems"][int(part)]
                found = found.locator(".schema-form-property-array-item").nth(int(part))
            else:
                schema = inside["properties"][part]
                found = found.locator(f"{FIELDS}[{self._is_titled(schema, part)}]")
        return found, schema

    def _is_titled(self, schema: Schema, name: str) -> str:
        title = schema.get("title") or self._resolved(schema).get("title") or name
        return f"{TITLE}[normalize-space()='{title}' or normalize-space()='{title} (Optional)']"

    def _resolved(self, schema: Schema) -> Schema:
        """Return the box that a schema refers to, also where it may be left empty."""
        if "anyOf" in schema:
            schema = next(kind for kind in schema["anyOf"] if kind.get("type") != "null")
        elif len(schema.get("allOf", [])) == 1:
            schema = schema["allOf"][0]
        if "$ref" in schema:
            return self._resolved(self._schema["definitions"][schema["$ref"].rpartition("/")[2]])
        return schema


def choose(page: Page, place: Locator, option: str) -> None:
    """Choose from a drop-down: it opens by a click on its arrow; of one on its text it opens and closes at once."""
    place.locator(".p-select-button__icon").first.click(force=True)
    page.locator(".p-select-option").get_by_text(option, exact=True).click()
