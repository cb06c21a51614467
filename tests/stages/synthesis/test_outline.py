"""Headings, sections, classes and lists with their exact places."""

from stages.synthesis.outline import children, classes, count_items, headings, lists

TEXT = "# Land\n\n## Area\n\n### total\n\n9\n\n### water\n\n1\n\n## Coast\n\n3 km\n"


def test_sections_end_where_the_next_heading_of_their_level_begins():
    found = headings(TEXT)
    assert [(heading.level, heading.title) for heading in found] == [
        (1, "Land"),
        (2, "Area"),
        (3, "total"),
        (3, "water"),
        (2, "Coast"),
    ]
    assert found[0].section_end == len(TEXT)
    assert TEXT[found[1].start : found[1].section_end] == "## Area\n\n### total\n\n9\n\n### water\n\n1\n\n"
    assert TEXT[found[3].start : found[3].end] == "### water"


def test_children_are_the_direct_subsections():
    found = headings(TEXT)
    assert [heading.title for heading in children(found, 0)] == ["Area", "Coast"]
    assert [heading.title for heading in children(found, 1)] == ["total", "water"]
    assert children(found, 4) == []


def test_comments_in_fenced_code_are_no_headings():
    text = "# A\n\n```python\n# not a heading\n```\n\n## B\n"
    assert [heading.title for heading in headings(text)] == ["A", "B"]


def test_a_hash_without_a_blank_and_a_gigantic_line_are_no_headings():
    assert headings("#tag\n# " + "x" * 100_000) == []


def test_methods_of_a_class_in_order():
    text = (
        "import os\n\n\nclass Cat(Animal):\n    '''def fake(self): in a string'''\n\n    name = 'x'\n\n"
        "    def speak(self):\n        def inner():\n            return 1\n        return inner\n\n"
        "    async def walk(\n        self,\n    ):\n        return 2\n\n\nCATS = [Cat()]\n"
    )
    (cat,) = classes(text)
    assert cat.name == "Cat"
    assert [name for name, _ in cat.methods] == ["speak", "walk"]
    assert text[: cat.methods[0][1]].endswith("    def speak(self):")
    assert text[cat.start : cat.end].startswith("class Cat(Animal):")
    assert text[cat.start : cat.end].endswith("        return 2")


def test_a_class_that_does_not_parse_or_defines_methods_under_a_condition_is_left_out():
    assert classes("class Broken:\n    def a(self:\n        pass\n") == []
    assert classes("class C:\n    if X:\n        def a(self): ...\n    def b(self): ...\n") == []
    assert classes("class Deep:\n    x = " + "(" * 5_000 + ")" * 5_000 + "\n    def a(self): ...\n") == []


def test_items_of_a_list():
    assert count_items("\n\n- one\n- two\n  more of two\n- three\n\nAfter.") == (3, 35)
    assert count_items("1. a\n2. b") == (2, 9)


def test_lists_whose_items_are_open_to_opinion_are_not_counted():
    assert count_items("- a\n  - nested\n- b") is None
    assert count_items("- a\n- b\n\nText.\n\n- c\n- d") is None
    assert count_items("- only one") is None


def test_a_list_belongs_to_the_heading_above_it():
    text = "# T\n\n## Tools\n\n- saw\n- axe\n\n## Rest\n\nnothing\n"
    (tools,) = lists(text, headings(text))
    assert (tools.heading.title, tools.items) == ("Tools", 2)
    assert text[: tools.end].endswith("- axe")
