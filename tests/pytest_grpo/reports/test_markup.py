from __future__ import annotations

from pytest_grpo.reports.markup import element, joined


def test_text_and_values_are_escaped_and_markup_is_not() -> None:
    assert element("p", "<b> & ", element("i", '"'), title="'\"<>") == (
        '<p title="&#x27;&quot;&lt;&gt;">&lt;b&gt; &amp; <i>&quot;</i></p>'
    )
    assert joined("<", element("wbr")) == "&lt;<wbr>"


def test_attribute_names_and_numbers() -> None:
    assert element("rect", class_="a", stroke_width=1.5, x=1 / 3, y=10, id=None) == (
        '<rect class="a" stroke-width="1.5" x="0.33" y="10"></rect>'
    )
