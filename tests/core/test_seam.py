"""The seam between two generations' texts."""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from resumable_llm.core.seam import MIN_ECHO, StartedOver, TextSeam
from resumable_llm.core.units import joined, split

PROSE = """\
The harbour had been quiet since the ferry stopped running, and nobody in the village expected it to return.
Mrs Okafor kept the keys to the lighthouse in a drawer beside her bed, next to a photograph of her brother.
In spring the river rises so fast that the lower fields are under water within a single afternoon.
He asked whether Paris or Vienna would be cheaper in March, but the agent only shrugged and turned a page.
Photosynthesis converts light into chemical energy, which plants store as sugars and starches.
The committee met on Monday, argued until late, and postponed the decision for the third time this year.
A transformer model reads the whole prompt at once, whereas a recurrent network reads it word by word.
She had learned to cook from her grandmother, who measured nothing and remembered everything.
Most of the heat is lost through the roof, so insulation there pays for itself within a few winters.
Although the evidence is thin, historians agree that the treaty was signed before the king fell ill.
Water boils at a lower temperature in the mountains because the air presses on it less.
The new library opens at nine, closes at six, and lends everything except the very oldest maps.
When the orchestra finally began to play, the rain was already drumming on the tin roof.
To reset the router, hold the small button for ten seconds and wait until the green light returns.
Their first album sold badly, yet musicians from Lagos to Oslo still quote its opening bars.
Bees find their way by the sun, and on cloudy days by the pattern of polarised light in the sky.
An index makes reading faster and writing slower, which is why a table should not have too many of them.
My neighbour's dog barks at the postman every morning, even though they have been friends for years.
The glacier retreats about a metre a week, leaving behind boulders as large as houses.
Inflation erodes savings slowly at first, then quickly, and always when people are looking elsewhere.
If you plant garlic in October, it will be ready by the middle of the following summer.
The judge listened without interrupting, made a note in pencil, and asked the witness to sit down.
Cheese made from the milk of mountain goats tastes of thyme and of whatever else they have eaten.
According to Dr. Lindqvist, the bridge would have stood for another century with a little paint.
Every language has words that cannot be carried into another one without losing something on the way.
The tide turned while we were still arguing, and by noon the sandbank was an island.
Children who grow up with two languages often mix them, and stop doing so when they notice who understands.
It took the engineers three days to find the fault, which turned out to be a single loose wire.
The painter used only four colours, but mixed them so patiently that nobody has counted the shades.
Before the railway came, a letter from the coast to the capital took eleven days in good weather.
Vaccines train the immune system by showing it a harmless part of what it should recognise.
The old theatre was sold for the price of its bricks, and reopened as a swimming pool.
Nobody knows why the whales left the bay, though the fishermen have their own opinion about it.
A good translation sounds as if it had been written by the author on a better day.
The recipe calls for two eggs, a cup of flour, and more patience than most people bring to breakfast.
During the eclipse the birds fell silent, the air turned cold, and somebody began to laugh.
The parliament in Wellington passed the law by one vote after a night of negotiations.
Salt lowers the freezing point of water, which is why it is scattered on icy roads.
He wrote the whole novel by hand, in green ink, on the backs of old invoices.
The train to Kyoto leaves from the other platform, and it has never been late.
Owls fly without a sound because the edges of their feathers break up the air.
The mayor promised a park, a school and a tram, and built a car park.
Our galaxy is thought to contain more planets than there are grains of rice in a large bowl.
Her voice was so low that the microphone recorded mostly the clock on the wall.
The contract runs for five years and renews itself unless one of the parties objects in writing.
Volcanic soil is fertile, so people have always lived closer to the crater than they should.
The experiment failed in an interesting way, and the failure was worth more than the success would have been.
You can tell the age of a fish by the rings on its scales, much as you can with trees.
On the last evening they ate outside, talked about the winter, and let the candles burn down.
The city of Petra was carved into rose-coloured rock, and for centuries only shepherds knew where it was.
""".splitlines()

ANEW = (
    "Sure, here is the text you asked for.",
    "Certainly! Let me begin.",
    "It looks as if you would like to know more.",
    "I am happy to help with that.",
    "Here's an overview of the subject.",
    "The question is a good one.",
    "A short answer first: it depends.",
    "Thank you for asking. There are several aspects.",
    "Of course. What follows is a summary.",
    "What a lovely topic to write about!",
)

MARKDOWN = """\
## Choosing a database

There are three things to consider:

1. **Consistency** - whether readers see what was written.
   - Strong: Postgres, Spanner
   - Eventual: Cassandra, DynamoDB
2. **Latency** - how long a read takes.
3. **Cost** - both money and attention.

| Name | Kind | Licence |
| ---- | ---- | ------- |
| Postgres | relational | PostgreSQL |
| Redis | key-value | various |

> A database is a promise; read the small print.

- [x] Read the documentation
- [ ] Try it with `EXPLAIN ANALYZE`
- [ ] Ask Maria, Tomás or Zoë

See [the manual](https://example.org/manual) for more, e.g. on iOS and macOS. The pH of YouTube is no concern here.
"""

PYTHON = '''\
```python
from collections import Counter
from collections.abc import Iterable


class WordCount:
    """Counts words. It ignores case, and Unicode is welcome."""

    def __init__(self, words: Iterable[str]) -> None:
        self.counter = Counter(word.lower() for word in words)
        self.total = sum(self.counter.values())

    def share(self, word: str) -> float:
        # Nothing was counted: Python would raise ZeroDivisionError here
        if not self.total:
            raise ValueError("No words")
        return self.counter[word] / self.total

    def share_of_all(self, words: Iterable[str]) -> float:
        return sum(self.share(word) for word in words)


assert WordCount("a b A".split()).share("a") > 0.5
```

Run it with `python -m count`. It prints None if all is well.
'''

JAVASCRIPT = """\
const getUser = async (userId) => {
  const userName = await fetchName(userId);
  let displayName = userName ?? "Anonymous User";
  return new UserView(userName, displayName);
};

export default getUser
class my extends getUser { async loadAll () { return Promise.all(this.userIds) } }
"""

JSON_LINES = """\
{"question": "What is the capital of France?", "answer": "Paris", "tags": ["geography", "Europe"]}
{"question": "Who wrote Faust?", "answer": "Johann Wolfgang von Goethe", "tags": ["literature", "Germany"]}
{"question": "Who wrote Hamlet?", "answer": "William Shakespeare", "tags": []}
{"question": "How high is Everest?", "answer": "8,849 m", "tags": ["geography", "Asia"], "sure": true}
"""

POEM = """\
Row, row, row your boat,
Gently down the stream,
Merrily, merrily, merrily, merrily,
Life is but a dream.

O wind of the west, when you blow
Over the hills and over the snow,
Bring me my Mary, and bring me my Jack,
And bring me the summers that never come back.

Row, row, row your boat,
Gently down the brook,
If you see a crocodile,
Don't forget to look.
"""

OTHERS = """\
Der Hafen war still, seit die Fähre nach Hamburg eingestellt wurde, und niemand im Dorf wartete noch auf Besuch.
El río crece en primavera, y los campos de la orilla desaparecen en una sola tarde. Nadie en Sevilla lo recuerda.
Тихо в порту с тех пор, как паром перестал ходить, и никто в деревне не ждёт его из Одессы.
港は静かだった。フェリーが止まってから、誰も戻るとは思っていない。🚢⚓️👩‍👩‍👧 おしまい。
"""  # noqa: RUF001

GENUINE = {
    "prose": "\n\n".join(" ".join(PROSE[at : at + 5]) for at in range(0, len(PROSE), 5)),
    "markdown": MARKDOWN,
    "python": PYTHON,
    "javascript": JAVASCRIPT,
    "json": JSON_LINES,
    "poem": POEM,
    "others": OTHERS,
}


def pieces(text: str, size: int) -> list[str]:
    return [text[at : at + size] for at in range(0, len(text), size)]


def token_ends(text: str) -> list[int]:
    """Where a tokenizer would cut: words with the blank before them, long and compound ones in pieces."""
    found = re.finditer(r" ?(?:[A-Z]?[a-z]{1,6}|[A-Z]+|\w{1,4})| ?[^\w\s]{1,3}|\s+(?=\s)|\s", text)
    return sorted({each.end() for each in found} - {len(text)})


def word_ends(text: str) -> list[int]:
    return sorted({at for each in re.finditer(r"\S+", text) for at in each.span()} - {0, len(text)})


def feed(seam: TextSeam, chunks: Iterable[str]) -> str:
    return joined("".join([*map(seam.feed, chunks), seam.flush()]))


def refused(said: str, new: str, echoes: bool | None, size: int = 4) -> bool:
    try:
        feed(TextSeam(said, echoes=echoes), pieces(new, size))
    except StartedOver:
        return True
    return False


@pytest.mark.slow
@pytest.mark.parametrize("echoes", [False, None])
@pytest.mark.parametrize("kind", GENUINE)
def test_what_goes_on_is_hardly_ever_refused(kind: str, echoes: bool | None) -> None:
    whole = GENUINE[kind]
    refrain = 0.03 if kind == "poem" else 0  # a verse that begins in the words of the first may be that one anew
    for ends, most in ((token_ends(whole), refrain), (word_ends(whole), refrain)):
        wrong = [
            whole[cut - 9 : cut + 12]
            for cut in ends
            if refused(whole[:cut], whole[len(whole[:cut].rstrip()) :], echoes)
        ]
        assert len(wrong) <= most * len(ends), wrong


@pytest.mark.slow
def test_a_sentence_that_begins_in_the_middle_of_another_is_nearly_always_recognised() -> None:
    cuts = [(sentence[:cut], anew) for sentence in PROSE for cut in token_ends(sentence) if cut > 3 for anew in ANEW]
    found = sum(refused(said, anew, None) for said, anew in cuts)
    assert found > 0.95 * len(cuts)  # it is not, behind a name: "Java" may go on with "Script is"


VERSES = st.lists(
    st.sampled_from(["la ", "la\n", "Row, row, row your boat,\n", "😀", "\n\n", " ", "end."]), max_size=12
)
WHOLE = st.one_of(
    st.text(st.characters(codec="utf-8"), min_size=1, max_size=60),
    st.text("ab \n", min_size=1, max_size=60),
    VERSES.map("".join).filter(bool),
    st.builds(
        lambda whole, at, size: whole[at % len(whole) :][:size],
        st.sampled_from(list(GENUINE.values())),
        st.integers(0, 10**4),
        st.integers(1, 200),
    ),
)


@st.composite
def broken_off(draw: st.DrawFn) -> tuple[str, str]:
    """A whole text, and its beginning: cut anywhere, between the halves of a character too."""
    whole = draw(WHOLE)
    units = split(whole)
    return whole, units[: draw(st.integers(1, len(units)))]


def chunked(units: str, cuts: Iterable[int]) -> list[str]:
    """In chunks, as JSON would bring them: halves of characters stay halves."""
    places = sorted({0, len(units), *(cut % (len(units) + 1) for cut in cuts)})
    return [joined(units[begin:end]) for begin, end in pairwise(places)]


CUTS = st.lists(st.integers(0, 500), max_size=12)


def rest_of(whole: str, said: str, *, given_back: bool) -> tuple[str, str]:
    """What the server is sent, and what it goes on with."""
    sent = split(TextSeam(said).sent)
    rest = split(whole)[len(sent) :]
    return sent, rest if given_back else rest.lstrip()


def same(one: str, other: str, *, given_back: bool) -> bool:
    return one == other if given_back else "".join(one.split()) == "".join(other.split())


@pytest.mark.slow
@settings(max_examples=500)
@example(("ab\n  😀c", "ab\n  \ud83d"), [1], True, False)
@example(("ab\n  😀c", "ab\n  \ud83d"), [1], False, False)
@given(broken_off(), CUTS, st.booleans(), st.sampled_from([False, None]))
def test_going_on(text: tuple[str, str], cuts: list[int], given_back: bool, echoes: bool | None) -> None:
    whole, said = text
    sent, rest = rest_of(whole, said, given_back=given_back)
    head = sent.lstrip()
    if echoes is None and len(head) >= MIN_ECHO and rest.lstrip().startswith(head):
        return  # the same verse once more: the limit that `MIN_ECHO` sets
    try:
        new = feed(TextSeam(said, echoes=echoes), chunked(rest, cuts))
    except StartedOver:
        return
    assert same(joined(said + split(new)), whole, given_back=given_back)


@pytest.mark.slow
@settings(max_examples=500)
@given(broken_off(), CUTS, st.booleans(), st.booleans(), st.sampled_from([True, None]))
def test_saying_it_again_first(
    text: tuple[str, str], cuts: list[int], given_back: bool, trimmed: bool, echoes: bool | None
) -> None:
    whole, said = text
    sent, rest = rest_of(whole, said, given_back=given_back)
    seam = TextSeam(said, echoes=echoes)
    try:
        new = feed(seam, chunked((sent.lstrip() if trimmed else sent) + rest, cuts))
    except StartedOver:
        assert not echoes or "\ud800" <= said[-1] <= "\udbff"
        assert echoes or len(sent.lstrip()) < MIN_ECHO or "\ud800" <= said[-1] <= "\udbff"
        return
    assert same(joined(said + split(new)), whole, given_back=given_back)
    assert seam.echoed == len(joined(sent.lstrip()))


@pytest.mark.slow
@settings(max_examples=500)
@given(broken_off(), CUTS, st.sampled_from([False, None]))
def test_starting_over_in_the_same_words(text: tuple[str, str], cuts: list[int], echoes: bool | None) -> None:
    whole, said = text
    try:
        new = feed(TextSeam(said, echoes=echoes), chunked(split(whole), cuts))
    except StartedOver:
        return
    assert joined(said + split(new)) == whole
    assert echoes is None or not TextSeam(said).sent.strip()


@settings(max_examples=300)
@given(broken_off(), st.text(min_size=1, max_size=30), CUTS)
def test_a_server_that_says_it_again_and_says_something_else(
    text: tuple[str, str], other: str, cuts: list[int]
) -> None:
    said = text[1]
    head = TextSeam(said).sent.lstrip()
    if not head or not other.strip() or other.lstrip().startswith(head):
        return
    with pytest.raises(StartedOver):
        feed(TextSeam(said, echoes=True), chunked(split(other), cuts))


def outcome(said: str, new: str, stops: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    for size in (1, 2, 5, 99):
        seam = TextSeam(said, stops, echoes=False)
        yield feed(seam, [joined(each) for each in pieces(split(new), size)]), seam.stopped


@pytest.mark.parametrize("stop", ["END", "\nUser:", "\n\n", "```", "x", "🛑🛑", "a b", "</answer>"])
@pytest.mark.parametrize("behind", ["", "more", " END", "\n\n"])
def test_a_stop_sequence_across_the_seam(stop: str, behind: str) -> None:
    before = split("Some text, and then")
    units = before + split(stop)
    for cut in range(len(before) + 1, len(units)):
        said = units[:cut]
        sent = split(TextSeam(said).sent)
        new = joined((units + split(behind))[len(sent) :])
        for found in outcome(said, new, ["never", stop, "nor this"]):
            assert found == ("", stop)


@pytest.mark.parametrize("said", ["It is E", "It is EN", "It is x\n", "It is "])
def test_what_only_begins_like_a_stop_sequence_is_delivered(said: str) -> None:
    rest = said[len(said.rstrip()) :] + "ndless lines"
    for found in outcome(said, rest, ["END", "\nUser:", "\n\n"]):
        assert found == ("ndless lines", None)


def test_what_a_server_stops_at_itself_is_its_affair() -> None:
    for found in outcome("END of", " the END", ["END"]):
        assert found == (" the END", None)
    for found in outcome("a END-", "of it", ["END", "-of the line"]):
        assert found == ("of it", None)


def test_of_several_stop_sequences_the_first_counts() -> None:
    for found in outcome("on and o", "ff we", ["ff", "off", "d off", "f we"]):
        assert found[1] in ("off", "d off")
    seam = TextSeam("on and o", ["off we", "and off"])
    assert (seam.feed("ff we"), seam.stopped) == ("", "and off")


def test_a_stop_sequence_that_is_half_there_at_the_end() -> None:
    seam = TextSeam("It is E", ["END"])
    assert (seam.feed("N"), seam.is_holding) == ("", True)
    assert (seam.flush(), seam.stopped) == ("N", None)
    assert (seam.flush(), seam.feed("more"), seam.is_holding) == ("", "more", False)


@pytest.mark.parametrize(
    ("said", "new", "echoes"),
    [
        ("The cat", "The cat sat", False),
        ("The cat", "  The cat sat", None),
        ("I", "I think", False),
        ("The cat sat on the mat.", "The cat sat on", None),  # and ended
        ("The cat sat on the mat.", "The cat", True),
        ("The cat sat on the mat.", "The cat sat on the sofa.", False),
        ("The cat sat on the mat.\nIt", "The cat sat on the mat.\nShe", False),
        ("One line is enough to know it by.\n", "One line is enough to know it.", True),
        ("a half \ud83d", "smile", False),
        ("a half \ud83d", "", False),
        ("and then a", "Sure, this", False),
        ("it isn't", "I'd say", None),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 99])
def test_no_continuation(said: str, new: str, echoes: bool | None, size: int) -> None:
    assert refused(said, new, echoes, size)


@pytest.mark.parametrize(
    ("said", "new"),
    [
        ("He measured the p", "H of it"),  # and other words that go on with a capital
        ("three k", "Wh a day"),
        ("what an i", "Phone is"),
        ("on my", " Sure, here"),
        ("the user", "Name = 3"),
        ("the user", "Name\nis"),
        ("it is a", "Word"),  # and ended
        ("it is a", "McDonald sort"),
        ("a list:\n- one\n", "Two and"),
        ("```\nget", "User or"),
        ("in", "S"),
        ("The end of", " the"),
        ("The end of the", "T"),
        ("```\nx\n", "```"),
        ('{"description": "long"}\n', '{"description": "longer"}'),
        ("", "Anything at all"),
        ("  \n", "Anything at all"),
    ],
)
@pytest.mark.parametrize("size", [1, 3, 99])
def test_a_continuation(said: str, new: str, size: int) -> None:
    assert not refused(said, new, None, size)


@pytest.mark.parametrize("character", ["e", "é", "😀"])
def test_a_long_answer_that_is_said_again_costs_little(character: str) -> None:
    said = f"abcdefg {character} " * 20_000
    seam = TextSeam(said, ["stop"], echoes=True)
    chunks = [*pieces(said, 5), "and more"]
    begun = time.perf_counter()
    assert feed(seam, chunks) == "and more"
    assert time.perf_counter() - begun < 1


def test_white_space_that_does_not_end_is_held_no_longer_than_what_may_come_of_it() -> None:
    seam = TextSeam("a \n", echoes=False)
    assert [seam.feed(each) for each in (" ", "\n", "b", "c")] == ["", "", "b", "c"]


def test_what_is_sent() -> None:
    assert [TextSeam(said).sent for said in ("a \n\t", "a \ud83d", "a\ude00", " 😀", "\n")] == [
        "a",
        "a",
        "a\ude00",
        " 😀",
        "",
    ]
