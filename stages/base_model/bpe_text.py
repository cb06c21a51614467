"""The fixed text on which the random model's tokenizer is trained: our own words, in sentences made by rule.

It need not make sense. It needs the words and forms that prompts have (tags, tables, numbers, option letters), so that
2,000 entries give about the tokens per word of a small real tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterator

_WORDS = """
the of and to in a is that it was for on are as with his they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would other
into has more her two like him see time could no make than first been its who now people my made over did down only way
find use may water long little very after words called just where most know get through back much before also around
another came come work three word must because does part even place well such here take why help put years different
away again off went old number great tell men say small every found still between name should home big give air line set
own under read last never us left end along while might next sound below saw something thought both few those always
looked show large often together asked house world going want school important until form food keep children feet land
side without boy once animals life enough took sometimes four head above kind began almost live page got earth need far
hand high year mother light parts country father let night following picture being study second eyes soon times story
boys since white days ever paper hard near sentence better best across during today others however sure means knew try
told young miles sun ways thing whole hear example heard several change answer room sea against top turned learn point
city play toward five using himself usually money seen car morning given trees area rivers border coast climate capital
government president minister parliament constitution law court rights election party union federal republic kingdom
population growth rate median age births deaths urban literacy education health budget revenue expenditure debt export
import trade goods services industry agriculture oil gas electricity energy production consumption reserves currency
exchange inflation unemployment labor force tax income profit loss assets liabilities equity shares dividend cash flow
operating gross net total percent million billion quarter fiscal annual report statement company board director officer
customer product segment market price cost interest rates credit bank loan investment stock bond fund risk management
agreement contract section article chapter table figure note page document title question answer option letter number
only name phrase text requested word meeting speaker project design remote control user interface button screen battery
committee member chair minutes agenda decision action budget proposal discussion comment agree disagree idea problem
solution issue method result experiment sample data model theory function variable equation proof theorem definition
class return import self value list string object module error test file path line code server client request response
protocol network address connection header cookie session cache template render query database index key column row
science research cell protein gene species disease patient treatment clinical trial analysis effect observed measured
significant difference group control mean standard deviation temperature pressure volume mass energy force field wave
north south east west Africa America Asia Europe Brazil Canada China Egypt France Germany India Italy Japan Kenya Mexico
Norway Peru Poland Russia Spain Sweden Turkey Ukraine Vietnam London Paris Rome Madrid Berlin Ottawa Apple Microsoft
Amazon Boeing Oracle Nvidia Tesla Intel January February March April May June July August September October November
December Monday Tuesday Wednesday Thursday Friday Saturday Sunday Congress Senate House Mister Captain Doctor Professor
memory plan chunk remember recall earlier later before turn reply prepend answer correct according largest smallest
highest lowest compare greater less fewer sum difference ratio average count order earliest latest mentioned described
"""

_FORMS = (
    "The {0} of the {1} is {2}.",
    "What is the {0} of {1}, according to the {2}?\nAnswer with the number only.\n",
    "| {0} | {1} | {2} |\n|---|---|---|\n| {1} | {n} | {2} |\n",
    '<document title="{0} {1}">\n{2} {0} and {1}.\n</document>\n',
    "A. {0}\nB. {1}\nC. {2}\nD. {0} {1}\nAnswer with the letter of the right option only.\n",
    "def {0}({1}, {2}):\n    return self.{1}[{n}]\n",
    "<memory>The {0} was {n}.</memory><plan>Look for the {1} of {2}.</plan>\n",
    "In {n}, {0} {1} had {2}, but it was not the {1}'s.",
    "user: write about {0}\nassistant: {1} {2} {0}\n",
)


def training_lines() -> Iterator[str]:
    """Every word in several sentences, common words (those first in the list) more often. Always the same lines."""
    words = _WORDS.split()
    count = len(words)
    for index, word in enumerate(words):
        for repeat in range(1 + 4 * (count - index) // count):
            step = index * 7 + repeat * 131
            form = _FORMS[step % len(_FORMS)]
            other, third = words[(step * 5 + 3) % count], words[(step * 11 + 8) % count]
            yield form.format(word, other, third, n=1900 + step % 130)
