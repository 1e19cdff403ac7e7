"""The small world that ciuic-tiny lives in: a seeded grammar whose every line can be checked.

Lines are sums, differences, dates, inventories and orders, in English and in Chinese:

    12+30=42
    12加30等于42。
    The day after 2024-02-28 is 2024-02-29.
    Anna has 12 apples and buys 30 more. Now Anna has 42 apples.
    An order of 3 boxes at 4 coins each costs 12 coins.

Most lines come from one table, `FORMS`: a form says how its prompt and its answer are written, and the same table both
writes lines and reads them back, so `check(line)` recomputes the answer of any line, whoever wrote it. Longer texts
(`Inventory: ...`, `Order 17: ...`) are written and read by a small ledger each.

What is held out: a *fact* is an unordered pair {a, b} of 0..99 with its sum, or a day with the day after it. A hash of
the fact and of `SPLIT_SEED` keeps 12 % of the pairs and 10 % of the days for evaluation. Training never meets a
held-out fact in any form: not as b+a, not as a difference (a+b)-b, not inside an inventory, an order or a longer text,
not in either language. Products (orders of m things at k coins) are a table of 2..9 times 2..12, none of it held out.

    python grammar.py --lines 20 --seed 1          # look at it
    python grammar.py --check FILE                 # say which lines of FILE are wrong
    python grammar.py --self-test                  # every line checks, a changed digit is found, nothing held out leaks
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import random
import re
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cache

SPLIT_SEED = "ciuic-tiny-1"
MAX_TERM = 99
FIRST_DAY = datetime.date(2000, 1, 1)
LAST_DAY = datetime.date(2049, 12, 30)

Values = dict[str, str]


# ---- What is held out ------------------------------------------------------------------------------------------------


@cache
def _held_out(fact: str, percent: int) -> bool:
    digest = hashlib.sha256(f"{SPLIT_SEED}:{fact}".encode()).digest()
    return int.from_bytes(digest[:4], "big") % 100 < percent


def pair_is_held_out(a: int, b: int) -> bool:
    """Whether training must never see a+b, b+a, (a+b)-a or (a+b)-b."""
    return _held_out(f"{min(a, b)}+{max(a, b)}", 12)


def day_is_held_out(day: datetime.date) -> bool:
    """Whether training must never see `day` together with the day after it."""
    return _held_out(day.isoformat(), 10)


class Source:
    """Random facts from one side of the split: `held_out=False` is what training sees, True what evaluation asks."""

    def __init__(self, rng: random.Random, held_out: bool = False) -> None:
        self.rng = rng
        self.held_out = held_out

    def terms(self, low: int = 0) -> tuple[int, int]:
        """Two terms of a sum, low..99 each; a quarter of them favours one-digit terms, which are rare otherwise."""
        while True:
            small = self.rng.random() < 0.25
            a, b = (self.rng.randint(low, 9 if small and self.rng.random() < 0.5 else MAX_TERM) for _ in range(2))
            if pair_is_held_out(a, b) == self.held_out:
                return a, b

    def term_for(self, have: int, low: int, high: int, sign: int) -> int | None:
        """A term t in low..high such that have + t (sign 1) or have - t (sign -1) is a fact of this side, or None."""
        for _ in range(50):
            if high < low:
                return None
            t = self.rng.randint(low, high)
            pair = (have, t) if sign > 0 else (have - t, t)
            if max(pair) <= MAX_TERM and pair_is_held_out(*pair) == self.held_out:
                return t
        return None

    def day(self) -> datetime.date:
        """A day; half of them where the rule is hard: the end of a month, and one in five the end of a February."""
        rng = self.rng
        while True:
            day = FIRST_DAY + datetime.timedelta(days=rng.randrange((LAST_DAY - FIRST_DAY).days + 1))
            kind = rng.random()
            if kind < 0.2:  # as often in a leap year as not
                year = rng.choice([y for y in range(FIRST_DAY.year, LAST_DAY.year + 1) if (y % 4 == 0) == (kind < 0.1)])
                day = datetime.date(year, 2, 28) + datetime.timedelta(days=rng.randint(0, 1))
            elif kind < 0.5:
                day = day.replace(day=28)
                while (day + datetime.timedelta(days=1)).month == day.month:
                    day += datetime.timedelta(days=1)
            if day_is_held_out(day) == self.held_out:
                return day


# ---- Words -----------------------------------------------------------------------------------------------------------

NAMES = {"en": ["Anna", "Tom", "Mary", "Ben", "Lucy", "Omar"], "zh": ["小明", "小红", "李雷", "王芳"]}
# (plural in English, with 个 in Chinese). The first six are things on a shelf, all ten may be ordered.
THINGS = {
    "en": ["apples", "pears", "lamps", "cups", "eggs", "coats", "boxes", "chairs", "books", "pens"],
    "zh": ["苹果", "梨", "灯泡", "杯子", "鸡蛋", "背包", "箱子", "闹钟", "书包", "盒子"],
}
SHELF = 6


# ---- Lines: one prompt, one answer -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Form:
    """How one kind of line is written. `{field}` in prompt or answer is a number, a day, a name or a thing.

    kind names the entry of `KINDS` that draws the values and says what the answer is; weight is relative to its kind.
    """

    kind: str
    language: str
    prompt: str
    answer: str
    weight: float = 1.0


FORMS = [
    Form("sum", "en", "{a}+{b}=", "{c}", 8),
    Form("sum", "en", "{a} + {b} = ", "{c}", 2),
    Form("sum", "en", "What is {a}+{b}?", " {c}", 2),
    Form("sum", "en", "{a} plus {b} is ", "{c}."),
    Form("sum", "en", "The sum of {a} and {b} is ", "{c}."),
    Form("sum", "zh", "{a}加{b}等于", "{c}。", 2),
    Form("sum", "zh", "{a}加{b}等于多少？", "{c}"),
    Form("sum", "zh", "{a}与{b}的和是", "{c}。"),
    Form("difference", "en", "{c}-{a}=", "{b}", 2),
    Form("difference", "en", "What is {c}-{a}?", " {b}"),
    Form("difference", "en", "{c} minus {a} is ", "{b}."),
    Form("difference", "zh", "{c}减{a}等于", "{b}。", 2),
    Form("difference", "zh", "{c}减{a}等于多少？", "{b}"),
    Form("date", "en", "The day after {day} is ", "{next}.", 3),
    Form("date", "en", "The day before {next} is ", "{day}.", 2),
    Form("date", "en", "What day comes after {day}?", " {next}"),
    Form("date", "zh", "{day}的第二天是", "{next}。", 2),
    Form("date", "zh", "{next}的前一天是", "{day}。", 2),
    Form("inventory", "en", "{name} has {a} {thing} and buys {b} more. Now {name} has ", "{c} {thing}.", 2),
    Form("inventory", "en", "{name} has {c} {thing} and sells {a}. Now {name} has ", "{b} {thing}.", 2),
    Form(
        "inventory",
        "en",
        "There are {a} {thing} here and {b} {thing} there. How many {thing} are there?",
        " {c} {thing}.",
    ),
    Form("inventory", "zh", "{name}有{a}个{thing}，又买了{b}个。现在{name}有", "{c}个{thing}。", 2),
    Form("inventory", "zh", "{name}有{c}个{thing}，卖了{a}个。现在{name}有", "{b}个{thing}。", 2),
    Form("order", "en", "An order of {m} {thing} at {k} coins each costs ", "{p} coins.", 2),
    Form("order", "en", "{name} orders {m} {thing}. Each costs {k} coins. {name} pays ", "{p} coins.", 2),
    Form("order", "zh", "每个{thing}{k}元，{m}个{thing}一共", "{p}元。", 2),
    Form(
        "order total",
        "en",
        "{name} orders {thing} for {a} coins and {other} for {b} coins. The order costs ",
        "{c} coins.",
        2,
    ),
    Form("order total", "zh", "{name}订了{a}元的{thing}和{b}元的{other}，一共", "{c}元。", 2),
]


def _write_day(day: datetime.date, language: str) -> str:
    return day.isoformat() if language == "en" else f"{day.year}年{day.month}月{day.day}日"


def _read_day(text: str) -> datetime.date:
    return datetime.date(*(int(n) for n in re.findall(r"\d+", text)))


def _draw_terms(source: Source, language: str, low: int) -> Values:
    a, b = source.terms(low)
    return {"a": str(a), "b": str(b), "c": str(a + b)}


def _draw_words(source: Source, language: str) -> Values:
    thing, other = source.rng.sample(THINGS[language], 2)
    return {"name": source.rng.choice(NAMES[language]), "thing": thing, "other": other}


def _draw_days(source: Source, language: str) -> Values:
    day = source.day()
    return {"day": _write_day(day, language), "next": _write_day(day + datetime.timedelta(days=1), language)}


def _draw_product(source: Source, language: str) -> Values:
    m, k = source.rng.randint(2, 9), source.rng.randint(2, 12)
    return {"m": str(m), "k": str(k), "p": str(m * k)}


def _sum_holds(v: Values) -> bool:
    return int(v["a"]) + int(v["b"]) == int(v["c"])


def _days_follow(v: Values) -> bool:
    try:
        return _read_day(v["day"]) + datetime.timedelta(days=1) == _read_day(v["next"])
    except ValueError:  # no such day
        return False


def _product_holds(v: Values) -> bool:
    return int(v["m"]) * int(v["k"]) == int(v["p"])


@dataclass(frozen=True)
class Kind:
    """What the fields of a kind of line may be (`draw`) and whether they fit together (`holds`)."""

    draw: Callable[[Source, str], Values]
    holds: Callable[[Values], bool]


KINDS = {
    "sum": Kind(lambda s, lang: _draw_terms(s, lang, 0), _sum_holds),
    "difference": Kind(lambda s, lang: _draw_terms(s, lang, 0), _sum_holds),
    "date": Kind(_draw_days, _days_follow),
    "inventory": Kind(lambda s, lang: _draw_words(s, lang) | _draw_terms(s, lang, 2), _sum_holds),
    "order": Kind(lambda s, lang: _draw_words(s, lang) | _draw_product(s, lang), _product_holds),
    "order total": Kind(lambda s, lang: _draw_words(s, lang) | _draw_terms(s, lang, 2), _sum_holds),
}


@dataclass(frozen=True)
class Document:
    """A text in parts: (text, True) is an answer that follows from what stands before it, (text, False) is free."""

    kind: str
    language: str
    parts: tuple[tuple[str, bool], ...]

    @property
    def text(self) -> str:
        return "".join(text for text, _ in self.parts)

    @property
    def prompt(self) -> str:
        """All that stands before the last answer."""
        return "".join(text for text, _ in self.parts[:-1])

    @property
    def answer(self) -> str:
        """The last answer, with its full stop."""
        return self.parts[-1][0]


def line_of(form: Form, source: Source) -> Document:
    """One line of this form about a fact of this source."""
    values = KINDS[form.kind].draw(source, form.language)
    return Document(
        form.kind, form.language, ((form.prompt.format(**values), False), (form.answer.format(**values), True))
    )


def line(source: Source, kind: str) -> Document:
    """One line of this kind, its form drawn by weight."""
    forms = [f for f in FORMS if f.kind == kind]
    return line_of(source.rng.choices(forms, [f.weight for f in forms])[0], source)


# ---- Longer texts ----------------------------------------------------------------------------------------------------

_INVENTORY = {
    "en": {
        "open": "Inventory: ", "item": "{n} {thing}", "comma": ", ", "and": " and ", "stop": ". ",
        "buy": "{name} brings {n} {thing}", "sell": "{name} takes {n} {thing}",
        "now": "Now there are ", "close": "In the end: ", "end": ".",
    },
    "zh": {
        "open": "库存：", "item": "{n}个{thing}", "comma": "、", "and": "和", "stop": "。",
        "buy": "{name}送来{n}个{thing}", "sell": "{name}拿走{n}个{thing}",
        "now": "现在有", "close": "最后有", "end": "。",
    },
}  # fmt: skip


def _list_of(stock: dict[str, int], w: Values) -> str:
    items = [w["item"].format(n=n, thing=thing) for thing, n in stock.items()]
    return w["comma"].join(items[:-1]) + w["and"] + items[-1]


def inventory(source: Source, language: str) -> Document:
    """A stock of two or three things, one to three events that change it, and the stock at the end."""
    rng, w = source.rng, _INVENTORY[language]
    stock = {thing: rng.randint(2, MAX_TERM) for thing in rng.sample(THINGS[language][:SHELF], rng.randint(2, 3))}
    parts = [(w["open"] + _list_of(stock, w) + w["stop"], False)]
    for _ in range(rng.randint(1, 3)):
        thing = rng.choice(list(stock))
        have, sign = stock[thing], rng.choice([1, -1])
        n = source.term_for(have, 2, min(have - 2, 50) if sign < 0 else MAX_TERM - have, sign)
        if n is None:
            continue
        event = w["buy" if sign > 0 else "sell"].format(name=rng.choice(NAMES[language]), n=n, thing=thing)
        stock[thing] += sign * n
        parts += [
            (event + w["stop"] + w["now"], False),
            (w["item"].format(n=stock[thing], thing=thing) + w["stop"], True),
        ]
    parts += [(w["close"], False), (_list_of(stock, w) + w["end"], True)]
    return Document("inventory text", language, tuple(parts))


def order(source: Source, language: str) -> Document:
    """Two items of an order, each with its cost, and the total."""
    rng = source.rng
    while True:
        m, k, n, j = (rng.randint(2, 9) for _ in range(4))
        if pair_is_held_out(m * k, n * j) == source.held_out:
            break
    thing, other = rng.sample(THINGS[language], 2)
    number = rng.randint(1, 99)
    if language == "en":
        parts = [
            (f"Order {number}: {m} {thing} at {k} coins each, ", False), (f"{m * k} coins; ", True),
            (f"{n} {other} at {j} coins each, ", False), (f"{n * j} coins. ", True),
            ("Total: ", False), (f"{m * k + n * j} coins.", True),
        ]  # fmt: skip
    else:
        parts = [
            (f"订单{number}：{m}个{thing}，每个{k}元，计", False), (f"{m * k}元；", True),
            (f"{n}个{other}，每个{j}元，计", False), (f"{n * j}元。", True),
            ("合计", False), (f"{m * k + n * j}元。", True),
        ]  # fmt: skip
    return Document("order text", language, tuple(parts))


# ---- Reading back ----------------------------------------------------------------------------------------------------

_FIELD = {"day": {"en": r"\d{4}-\d\d-\d\d", "zh": r"\d{4}年\d{1,2}月\d{1,2}日"}}
_FIELD["next"] = _FIELD["day"]


def _one_of(words: list[str]) -> str:
    return "|".join(map(re.escape, words))


@cache
def _pattern(template: str, language: str) -> re.Pattern[str]:
    """The template as a regular expression: a group for each field, a back reference where it comes again."""
    out, seen = "", set()
    for literal, field in re.findall(r"([^{]*)(?:\{(\w+)\})?", template):
        out += re.escape(literal)
        if not field:
            continue
        if field in seen:
            out += f"(?P={field})"
            continue
        seen.add(field)
        words = {"name": NAMES, "thing": THINGS, "other": THINGS}.get(field)
        inner = _one_of(words[language]) if words else _FIELD.get(field, {}).get(language, r"0|[1-9]\d*")
        out += f"(?P<{field}>{inner})"
    return re.compile(out)


_PATTERNS = [(form, _pattern(form.prompt + form.answer, form.language)) for form in FORMS]


def _check_inventory(text: str, language: str) -> bool | None:
    w = _INVENTORY[language]
    if not text.startswith(w["open"]) or not text.endswith(w["end"]):
        return None
    # What happened, and what there is after it, are two sentences; the first sentence and the last frame them.
    first, *steps, last = text[len(w["open"]) : -len(w["end"])].split(w["stop"])
    item = _pattern(w["item"], language)
    stock = {m["thing"]: int(m["n"]) for m in item.finditer(first)}
    if len(steps) % 2 or len(stock) < 2 or first != _list_of(stock, w) or not last.startswith(w["close"]):
        return None
    right = True
    for event, now in zip(steps[::2], steps[1::2]):
        moved, sign = _pattern(w["buy"], language).fullmatch(event), 1
        if not moved:
            moved, sign = _pattern(w["sell"], language).fullmatch(event), -1
        left = item.fullmatch(now.removeprefix(w["now"]))
        if not moved or not left or not now.startswith(w["now"]):
            return None
        if moved["thing"] not in stock:
            return False
        stock[moved["thing"]] += sign * int(moved["n"])
        right &= left["thing"] == moved["thing"] and int(left["n"]) == stock[moved["thing"]]
    return right and last == w["close"] + _list_of(stock, w)


def _check_order(text: str, language: str) -> bool | None:
    number, thing = r"(0|[1-9]\d*)", f"({_one_of(THINGS[language])})"
    pattern = {
        "en": rf"Order \d+: {number} {thing} at {number} coins each, {number} coins; "
        rf"{number} {thing} at {number} coins each, {number} coins\. Total: {number} coins\.",
        "zh": rf"订单\d+：{number}个{thing}，每个{number}元，计{number}元；"
        rf"{number}个{thing}，每个{number}元，计{number}元。合计{number}元。",
    }[language]
    found = re.fullmatch(pattern, text)
    if not found:
        return None
    m, k, p, n, j, q, total = (int(g) for g in found.groups() if g.isdigit())
    return m * k == p and n * j == q and p + q == total


def check(text: str) -> bool | None:
    """Whether the answers of a line or of a longer text are right; None if it is not a text of this grammar."""
    for form, pattern in _PATTERNS:
        if found := pattern.fullmatch(text):
            return KINDS[form.kind].holds(found.groupdict())
    for read in (_check_inventory, _check_order):
        for language in ("en", "zh"):
            if (verdict := read(text, language)) is not None:
                return verdict
    return None


# ---- The mixtures that training reads ---------------------------------------------------------------------------------

# Shares of the kinds. Sums first: they take longest to learn and their lines are short. Then everything, longer texts more.
MIXTURES = {
    "sums": {
        "sum": 60, "difference": 12, "date": 10, "inventory": 6, "order": 4, "order total": 3,
        "inventory text": 3, "order text": 2,
    },
    "all": {
        "sum": 42, "difference": 12, "date": 15, "inventory": 6, "order": 4, "order total": 4,
        "inventory text": 14, "order text": 3,
    },
}  # fmt: skip


def document(source: Source, mixture: str = "all") -> Document:
    """One document of a mixture."""
    shares = MIXTURES[mixture]
    kind = source.rng.choices(list(shares), list(shares.values()))[0]
    if kind == "inventory text":
        return inventory(source, source.rng.choice(["en", "zh"]))
    if kind == "order text":
        return order(source, source.rng.choice(["en", "zh"]))
    return line(source, kind)


def documents(seed: int, held_out: bool = False, mixture: str = "all") -> Iterator[Document]:
    """Documents without end; the same seed gives the same documents."""
    source = Source(random.Random(seed), held_out)
    while True:
        yield document(source, mixture)


def self_test(lines: int = 4000) -> None:
    """Lines check, lines with a wrong digit do not, and training lines hold no held-out fact."""
    rng = random.Random(7)
    for held_out in (False, True):
        for _, doc in zip(range(lines), documents(1, held_out)):
            assert check(doc.text) is True, doc.text
            place = rng.choice([m.start() for m in re.finditer(r"\d", doc.answer)])
            wrong = str((int(doc.answer[place]) + rng.randint(1, 9)) % 10)
            changed = doc.prompt + doc.answer[:place] + wrong + doc.answer[place + 1 :]
            assert not check(changed), changed
    for form in FORMS:
        source = Source(random.Random(8))
        for _ in range(200):
            v = _pattern(form.prompt + form.answer, form.language).fullmatch(line_of(form, source).text).groupdict()
            assert "a" not in v or not pair_is_held_out(int(v["a"]), int(v["b"])), v
            assert "day" not in v or not day_is_held_out(_read_day(v["day"])), v
    for language in ("en", "zh"):  # what an inventory says before and after an event gives the pair
        w, source = _INVENTORY[language], Source(random.Random(9))
        item = _pattern(w["item"], language)
        for _ in range(500):
            stock: dict[str, int] = {}
            for m in item.finditer(inventory(source, language).text.split(w["close"])[0]):
                thing, n = m["thing"], int(m["n"])
                if thing in stock and stock[thing] < 0:  # the second of a step: what there is now
                    have, moved, stock[thing] = last, -stock[thing], n
                    assert n in (have + moved, have - moved)
                    assert not pair_is_held_out(min(have, n), moved), (have, moved, n)
                elif thing in stock:  # the first of a step: what moved
                    last, stock[thing] = stock[thing], -n
                else:
                    stock[thing] = n
    print(f"{2 * lines} lines read back and spoilt, {200 * len(FORMS) + 1000} searched for held-out facts")


def main() -> int:
    parser = argparse.ArgumentParser(description="Write or check lines of ciuic-tiny's grammar.")
    parser.add_argument("--lines", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="write lines about facts that training never sees")
    parser.add_argument("--check", metavar="FILE", help="check the lines of FILE instead")
    parser.add_argument("--self-test", action="store_true")
    options = parser.parse_args()
    if options.self_test:
        self_test()
        return 0
    if options.check:
        with open(options.check, encoding="utf-8") as file:
            bad = [(i, text) for i, text in enumerate(file.read().splitlines(), 1) if not check(text)]
        for i, text in bad:
            print(f"{options.check}:{i}: {'not of this grammar' if check(text) is None else 'wrong'}: {text}")
        return 1 if bad else 0
    for _, doc in zip(range(options.lines), documents(options.seed, options.held_out)):
        print(doc.text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
