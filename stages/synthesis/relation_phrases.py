"""How questions name the relations of the graph, from either end.

    forward:  "the capital of {x}"                          backward: "the country whose capital is {v}"
    ranked:   "the country with which {x} has its longest land border"

None where there are no words for it. `{x}` is another description or "that country", `{v}` the value as the document writes it.
"""

from __future__ import annotations

import re

from stages.synthesis.phrasing import in_unit, is_plain_noun

NOUNS = {
    "country": "country",
    "paper": "paper",
    "filing": "filing",
    "company": "company",
    "document": "document",
    "work": "work",
    "package": "package",
    "module": "file",
    "class": "class",
    "function": "function",
    # of heads that a model reads (knowledge_graph_llm.py)
    "person": "person",
    "organisation": "organisation",
    "place": "place",
    "building": "building",
    "event": "event",
    "law": "law",
    "work of art": "work of art",
    "product": "product",
    "group": "group",
    "thing": "thing",
}

_TABLE = re.compile(r"table: (?P<row>.+) \| (?P<column>.*)", re.DOTALL)
_FORM = re.compile(r"(?P<form>\S+) of (?P<date>[A-Z][a-z]+ [0-9]{1,2}, ?[0-9]{4})")
_REFERENCE = re.compile(r"reference (?P<number>[0-9]+)")
_YEAR_OF = re.compile(r"year of «(?P<statement>.+)»", re.DOTALL)
_CAUSE_OF = re.compile(r"cause of «(?P<effect>.+)»", re.DOTALL)
_METHOD_DEFAULT = re.compile(r"default of (?P<argument>\w+) in (?P<method>\w+)")
_DEFAULT = re.compile(r"default of (?P<argument>\w+)")
_CONSTANT = re.compile(r"constant (?P<name>\w+)")
_ATTRIBUTE = re.compile(r"attribute (?P<name>\w+)")
_NAMES_THE = re.compile(r"names the (?P<kind>[a-z ]+)")

_CODE_FORWARD = {
    ("class", "defined in"): "the file that defines {x}",
    ("function", "defined in"): "the file that defines {x}",
    ("class", "base class"): "the class directly extended by {x}",
    ("module", "package"): "the package that contains {x}",
    ("module", "imports"): "the only file of the packages at hand imported by the top-level code of {x}",
    ("module", "constant"): "the only upper-case constant that {x} sets to a value of its own",
    ("function", "return annotation"): "the return annotation of {x}",
}
_CODE_BACKWARD = {
    ("class", "method"): "the class that has a method named `{v}`",
    ("module", "constant"): "the file that sets the constant `{v}`",
    ("module", "imports"): "the only file of the packages at hand whose top-level code imports {v}",
    ("class", "base class"): "the only class of the packages at hand that directly extends {v}",
    ("class", "defined in"): "the only class defined in {v}",
}
_PLAIN_FORWARD = {
    ("paper", "journal"): "the journal of {x}",
    ("paper", "year of publication"): "the year of publication of {x}",
    ("paper", "DOI"): "the DOI of {x}",
    ("work", "journal"): "the journal of {x}, as the reference abbreviates it",
    ("work", "year of publication"): "the year of publication of {x}",
    ("work", "surname of the first author"): "the surname of the first author of {x}",
    ("company", "jurisdiction"): "the state of incorporation of {x}",
    ("company", "exchange"): "the exchange on which {x} lists its common stock",
    ("document", "speaker"): "the speaker of {x}",
    ("document", "date"): "the date of {x}",
}
_PLAIN_BACKWARD = {
    ("paper", "DOI"): 'the paper with the DOI "{v}"',
    ("company", "jurisdiction"): "the company incorporated in {v}",
    ("company", "exchange"): "the company whose common stock is listed on the {v}",
    ("document", "date"): "the document dated {v}",
    ("document", "speaker"): "the document whose speaker is {v}",
}
# Relations by which an entity is told through an office, an institution or an organisation.
_INSTITUTIONAL = re.compile(
    r"chief of|head of|legislat|chamber|\bcourt|journal|exchange on|^exchange$|jurisdiction|speaker|party|parties|embass|chancery|mission|"
    r"organi[sz]ation|registrant|employer"
)
# Of a list value: the entry with the largest figure, the smallest, one that is given or lies in a range ({v}), one at a rank ({k}).
_LISTS = {
    "land boundaries (border countries)": (
        "the country across the longest land border of {x}",
        "the country across the shortest land border of {x}",
        "the country across the land border of {v} of {x}",
        "the country across the {k} land border of {x}",
    ),
    "exports - partners": (
        "the largest export partner of {x}",
        None,
        "the partner that takes {v} of the exports of {x}",
        "the {k} export partner of {x}",
    ),
    "imports - partners": (
        "the largest import partner of {x}",
        None,
        "the partner that supplies {v} of the imports of {x}",
        "the {k} import partner of {x}",
    ),
}
_ANY_LIST = (
    'the entry with the largest figure under "{r}" of {x}',
    None,
    'the entry with {v} under "{r}" of {x}',
    'the entry with the {k} figure under "{r}" of {x}',
)
_ORDINALS = ("", "", "second-", "third-", "fourth-", "fifth-", "sixth-")
_VAGUE_SUBJECTS = {
    ("paper", "DOI"): "the paper whose DOI",
    ("paper", "year of publication"): "the paper whose year of publication",
    ("company", "jurisdiction"): "the company whose state of incorporation",
    ("company", "exchange"): "the company whose stock exchange",
    ("document", "date"): "the document whose date",
    ("document", "speaker"): "the document whose speaker's name",
    ("class", "method"): "the class that has a method whose name",
}
_IS_QUOTED, _IS = ' is "{v}"', " is {v}"
_WHAT = {"number": "figure", "date": "date"}


def forward(relation: str, head_type: str, tail_type: str) -> str | None:
    """What {x} has."""
    known = _CODE_FORWARD.get((head_type, relation)) or _PLAIN_FORWARD.get((head_type, relation))
    if known:
        return known
    if relation in ("method", "mentions") or relation.startswith(("alias: ", "import of ", "names the ")):
        return None
    for pattern, words in (
        (_TABLE, 'the figure in row "{row}", column "{column}" of {x}'),
        (_FORM, "the {form} of {x} for the period ended {date}"),
        (_REFERENCE, "the work that {x} cites as reference {number}"),
        (_YEAR_OF, 'the year that fills the blank in "{statement}" in {x}'),
        (_METHOD_DEFAULT, "the default of the parameter `{argument}` of the method `{method}` of {x}"),
        (_DEFAULT, "the default of the parameter `{argument}` of {x}"),
        (_CONSTANT, "the value of the constant `{name}` in {x}"),
        (_ATTRIBUTE, "the value of the class attribute `{name}` of {x}"),
    ):
        match = pattern.fullmatch(relation)
        if match is not None:
            filled = {name: _braced(" ".join(value.split())) for name, value in match.groupdict().items()}
            return words.format(**filled, x="{x}")
    if _CAUSE_OF.fullmatch(relation):
        return None  # asked by causal.py in its own words
    attribute = _braced(relation)
    if is_plain_noun(relation):
        return f"the {attribute} of {{x}}"
    what = {"number": "figure", "date": "date"}.get(tail_type, "entry")
    return f'the {what} given for "{attribute}" of {{x}}'


def backward(relation: str, head_type: str) -> str | None:
    """Who has {v}."""
    known = _CODE_BACKWARD.get((head_type, relation)) or _PLAIN_BACKWARD.get((head_type, relation))
    if known:
        return known
    noun = NOUNS.get(head_type, "one")
    if relation == "mentions":
        profile = "country whose profile" if head_type == "country" else f"{noun} that"
        return f'the {profile} mentions "{{v}}"'
    match = _NAMES_THE.fullmatch(relation)
    if match is not None:
        return f'the {noun} that names the {match["kind"]} "{{v}}"'
    match = _REFERENCE.fullmatch(relation)
    if match is not None:
        return f"the paper whose reference {match['number']} is {{v}}"
    match = _CONSTANT.fullmatch(relation)
    if match is not None:
        return f'the file that sets the constant `{match["name"]}` to "{{v}}"'
    match = _ATTRIBUTE.fullmatch(relation)
    if match is not None:
        return f'the class that sets its attribute `{match["name"]}` to "{{v}}"'
    if head_type in ("class", "function", "module", "filing", "work", "package"):
        return None
    if relation.startswith(("alias: ", "import of ", "year of «", "cause of «", "table: ")) or _FORM.fullmatch(
        relation
    ):
        return None
    if relation == "year of publication":
        return None
    attribute = _braced(relation)
    if is_plain_noun(relation):
        return f"the {noun} whose {attribute} is {{v}}"
    return f'the {noun} whose entry for "{attribute}" is "{{v}}"'


def ranked(relation: str) -> tuple[str | None, str | None, str | None]:
    """Of a list value: the entry with the largest, the smallest, and a given number."""
    largest, smallest, given, *_ = _list_words(relation)
    return largest, smallest, given


def _list_words(relation: str) -> tuple[str | None, ...]:
    known = _LISTS.get(relation)
    if known is not None:
        return known
    return tuple(words and words.replace("{r}", _braced(relation)) for words in _ANY_LIST)


def placed(relation: str, by: str, rank: int) -> str:
    """Of a list value: the entry with the second-largest ("max") or third-smallest ("min") figure."""
    return str(_list_words(relation)[3]).replace("{k}", placed_word(relation, by, rank))


def placed_word(relation: str, by: str, rank: int) -> str:
    """Such as "second-largest"; borders are long or short."""
    word = ordinal_word(by, rank)
    if relation.startswith("land boundaries"):
        word = word.replace("largest", "longest").replace("smallest", "shortest")
    return word


def ordinal_word(by: str, rank: int, tail_type: str = "number") -> str:
    """Such as "second-largest", "earliest"."""
    word = {"max": "latest", "min": "earliest"} if tail_type == "date" else {"max": "largest", "min": "smallest"}
    return f"{_ORDINALS[rank]}{word[by]}"


def vague_subject(relation: str, head_type: str, tail_type: str) -> str | None:
    """Who has a value that is only described, up to the predicate: "the country whose independence" (falls in July)."""
    known = _VAGUE_SUBJECTS.get((head_type, relation))
    if known is not None:
        return known
    if (head_type, relation) in _CODE_BACKWARD or relation == "mentions" or relation.startswith("names the "):
        return None
    words = backward(relation, head_type)
    if words is None or not words.endswith((_IS, _IS_QUOTED)) or _REFERENCE.fullmatch(relation):
        return None
    words = words.removesuffix(_IS_QUOTED).removesuffix(_IS).replace("{{", "{").replace("}}", "}")
    return words.replace("whose entry for ", f"whose {_WHAT.get(tail_type, 'entry')} for ")


def among(relation: str, head_type: str, tail_type: str, by: str, rank: int, count: int) -> str | None:
    """An entity by its place among all that have a figure: "... with the second-largest coastline among the five countries ..."."""
    words = forward(relation, head_type, tail_type)
    noun = NOUNS.get(head_type)
    if words is None or noun is None or not words.endswith(" of {x}"):
        return None
    what = words.removesuffix(" of {x}").removeprefix("the ").replace("{{", "{").replace("}}", "}")
    place = ordinal_word(by, rank, tail_type)
    return f"the {noun} with the {place} {what} among the {count_word(count)} {_plural(noun)} for which the documents state one"


def count_word(count: int) -> str:
    """The size of a small group in words."""
    return ("", "one", "two", "three", "four", "five", "six")[count]


def _plural(noun: str) -> str:
    if noun.endswith("y"):
        return f"{noun[:-1]}ies"
    return f"{noun}es" if noun.endswith("s") else f"{noun}s"


def unit_note(tail_type: str, unit: str, scale: str) -> str:
    """How a question about a number ends: ", in km", ", in millions"."""
    if tail_type != "number":
        return ""
    if unit and scale:
        return f", {scale} of {unit}"
    return f", {scale}" if scale else in_unit(unit)


def obfuscation(relation: str, tail_type: str, way: str, *, literal: bool) -> str:
    """Which kind of description a step is: verbatim where a value is copied; temporal, institutional, ordinal or attribute."""
    if literal or way == "nth":
        return "verbatim"
    if way in ("max", "min"):
        return "ordinal"
    return value_kind(relation, tail_type)


def value_kind(relation: str, tail_type: str) -> str:
    """Temporal, institutional (an office, an institution, an organisation) or attribute."""
    if tail_type == "date":
        return "temporal"
    return "institutional" if tail_type != "number" and _INSTITUTIONAL.search(relation.casefold()) else "attribute"


def statement_of(relation: str) -> str | None:
    """The statement with a blank of a dated statement, or the effect of a stated cause."""
    match = _YEAR_OF.fullmatch(relation)
    return match["statement"] if match else None


def effect_of(relation: str) -> str | None:
    """The effect of a stated cause."""
    match = _CAUSE_OF.fullmatch(relation)
    return match["effect"] if match else None


def _braced(text: str) -> str:
    """Text that goes through str.format once more."""
    return text.replace("{", "{{").replace("}", "}}")
