#!/usr/bin/env python3
"""Differential fuzzing of the template engine: random templates, rendered by jinja2 (as transformers sets it up) and by
lua/templates/jinja.lua; differences are printed.

Usage: python3 tests/goldens/fuzz_templates.py [SEED [ROUNDS [TEMPLATES]]], in the source tree, with transformers and
lua5.4 at hand. An error in both counts as equal, whatever its words, and so do the integers beyond 64 bits that
only Python has.
"""

import copy
import json
import os
import random
import re
import signal
import subprocess
import sys
import warnings

from still_clock import NOW, chat

HERE = os.path.dirname(os.path.abspath(__file__))

CONTEXT = {
    "messages": [
        {"role": "system", "content": "  Be brief.\n"},
        {"role": "user", "content": "Grüße 😀 <b>&'\" x"},
        {
            "role": "assistant",
            "content": "",
            "tool_calls": [{"function": {"name": "f", "arguments": {"b": 1.0, "a": [1, None, True]}}}],
        },
        {"role": "tool", "content": None, "n": -3},
    ],
    "x": 3,
    "y": -2.5,
    "s": "héllo Wörld ß",
    "e": "",
    "l": [3, 1, 2],
    "n": None,
    "t": True,
    "f": False,
    "d": {"b": 1, "a": [1, None, True], "c": {"k": "v"}},
    "w": ["b", "A", "c", "a"],
    "m": "a\n  b\r\nc\n\nd ",
    "dd": [{"k": "x", "v": 1}, {"k": "Y", "v": 2}, {"k": "z", "v": 1}],
}
NAMES = list(CONTEXT) + ["messages", "x", "s", "l", "d", "zz", "i", "q", "ns", "loop"]
STRINGS = [
    "",
    "a",
    "b ",
    " ",
    "abc",
    "a,b,c",
    "x\\ny",
    "é",
    "😀",
    "%s",
    "%d-%s",
    "{}",
    "{0:>4}",
    "<i>",
    "k",
    "role",
    "user",
    "content",
    "3",
    "-1.5",
    "\\t z\\n",
    "Ab cD",
    "ß",
    "\\u200b",
    "it\\'s",
]
NUMBERS = ["0", "1", "2", "-1", "3", "10", "0.5", "-2.5", "1e3", "1e16", "2.675", "100", "1.0"]
FILTERS0 = (
    "trim upper lower capitalize title length count list first last string int float abs round sort unique reverse "
    "join "
    "sum min max items dictsort tojson e safe escape wordcount indent default select reject urlencode map"
).split()
METHODS0 = (
    "strip lstrip rstrip upper lower title capitalize split rsplit splitlines swapcase isdigit isalpha isupper keys "
    "values items copy istitle isspace isalnum casefold islower"
).split()
TEXT_FILTERS = "trim upper lower capitalize title reverse e escape string".split()
TEXT_METHODS = "strip lstrip rstrip upper lower title capitalize swapcase casefold".split()
TESTS0 = (
    "defined undefined none string number integer float boolean mapping sequence iterable odd even true false lower "
    "upper callable"
).split()


class Maker:
    def __init__(self, seed):
        self.r = random.Random(seed)
        self.loops = 0

    def pick(self, items):
        return self.r.choice(items)

    def string(self):
        return "'" + self.pick(STRINGS) + "'"

    def atom(self):
        k = self.r.random()
        if k < 0.45:
            return self.pick(NAMES)
        if k < 0.65:
            return self.string()
        if k < 0.85:
            return self.pick(NUMBERS)
        return self.pick(
            [
                "true",
                "false",
                "none",
                "[]",
                "{}",
                "()",
                "[1, 2, 3]",
                "range(4)",
                "messages[0]",
                "d.c",
                "dd",
                "messages[1].content",
            ]
        )

    def args(self, depth, low, high):
        return ", ".join(self.expr(depth - 1) for _ in range(self.r.randint(low, high)))

    def expr(self, depth=3):
        """Any expression: mostly one that makes sense, now and then one that need not."""
        k = self.r.random()
        if k < 0.03:
            return self.wild(depth)
        return self.pick([self.text, self.text, self.number, self.sequence, self.truth, self.other])(depth)

    def text(self, depth):
        if depth <= 0:
            return self.pick([self.string(), self.string(), "s", "e", "m", "messages[1].content", "w[1]", "dd[0].k"])
        t = lambda: self.text(depth - 1)  # noqa: E731
        n = lambda: self.number(depth - 1)  # noqa: E731
        q = lambda: self.sequence(depth - 1)  # noqa: E731
        return self.pick(
            [
                lambda: self.text(0),
                lambda: self.text(0),
                lambda: f"{t()} + {t()}",
                lambda: f"{t()} ~ {self.expr(depth - 1)}",
                lambda: f"({t()})[{self.subscript(depth)}]",
                lambda: f"({t()})|{self.pick(TEXT_FILTERS)}",
                lambda: f"({t()}).{self.pick(TEXT_METHODS)}()",
                lambda: f"({q()})|join({self.string()})",
                lambda: f"({self.expr(depth - 1)})|tojson",
                lambda: f"({q()})|string",
                lambda: f"({t()})|replace({self.string()}, {self.string()})",
                lambda: f"({t()}) * {self.pick('0123')}",
                lambda: f"({t()})|indent({self.pick('024')})",
                lambda: f"({t()} if {self.truth(depth - 1)} else {t()})",
                lambda: f"({n()})|string",
                lambda: f"({t()}).{self.method(depth)}",
                lambda: f"({t()})|{self.filter(depth)}",
                lambda: f"'%s|%r' % ({self.expr(depth - 1)}, {self.expr(depth - 1)})",
                lambda: f"'%5.2f|%d' % ({n()}, {n()})",
                lambda: f"'{{}}|{{!r:>5}}'.format({t()}, {n()})",
                lambda: f"'{{:.3f}} {{:>8}}'.format({n()}, {t()})",
            ]
        )()

    def number(self, depth):
        if depth <= 0:
            return self.pick(NUMBERS + ["x", "y", "x"])
        n = lambda: self.number(depth - 1)  # noqa: E731
        return self.pick(
            [
                lambda: self.number(0),
                lambda: f"{n()} {self.pick('+-*')} {n()}",
                lambda: f"({n()}) {self.pick(['/', '//', '%'])} {n()}",
                lambda: f"({n()})|{self.pick(['abs', 'int', 'float', 'round', 'round(1)', 'round(2)'])}",
                lambda: f"-{n()}",
                lambda: f"({self.text(depth - 1)})|{self.pick(['length', 'int', 'float', 'wordcount', 'count'])}",
                lambda: f"({self.sequence(depth - 1)})|length",
                lambda: "l|sum",
                lambda: f"({n()}) ** {self.pick(['2', '0.5', '3'])}",
                lambda: f"[{n()}, {n()}]|{self.pick(['sum', 'min', 'max', 'first', 'last'])}",
                lambda: f"({self.text(depth - 1)}).{self.pick(['find', 'count', 'rfind'])}({self.string()})",
            ]
        )()

    def sequence(self, depth):
        if depth <= 0:
            return self.pick(
                ["l", "w", "messages", "dd", "d.a", "d", "range(4)", "[]", "[1, 2.5, none]", "('a', 'b')", "'abc'"]
            )
        q = lambda: self.sequence(depth - 1)  # noqa: E731
        return self.pick(
            [
                lambda: self.sequence(0),
                lambda: "[" + self.args(depth, 0, 3) + "]",
                lambda: "(" + self.args(depth, 2, 3) + ")",
                lambda: f"({q()})|list",
                lambda: f"({q()})|reverse|list",
                lambda: f"(({q()})|list)[{self.subscript(depth, True)}]",
                lambda: f"({self.pick(['l', 'w', 'dd', 'messages'])})|{self.filter(depth)}",
                lambda: f"(({q()})|list + {self.pick(['l', 'w'])})",
                lambda: f"({self.text(depth - 1)}).split({self.pick(['', self.string()])})",
                lambda: f"({q()})|map('string')|list",
                lambda: f"({self.text(depth - 1)})|list",
                lambda: "d.items()|list",
                lambda: "d|dictsort",
                lambda: "d.keys()|list",
                lambda: f"({q()})|select('{self.pick(TESTS0)}')|list",
                lambda: f"({q()})|map('string')|sort",
                lambda: f"({q()})|map('string')|unique|list",
                lambda: f"({self.text(depth - 1)}).splitlines()",
                lambda: f"({q()})|batch({self.pick('123')})|list",
                lambda: f"({q()})|slice({self.pick('123')})|list",
            ]
        )()

    def truth(self, depth):
        if depth <= 0:
            return self.pick(["t", "f", "x", "e", "n", "zz", "true", "false"])
        e = lambda: self.expr(depth - 1)  # noqa: E731
        b = lambda: self.truth(depth - 1)  # noqa: E731
        return self.pick(
            [
                lambda: self.truth(0),
                lambda: f"{e()} {self.pick(['==', '!='])} {e()}",
                lambda: f"not {b()}",
                lambda: f"{self.number(depth - 1)} {self.pick(['<', '<=', '>', '>='])} {self.number(depth - 1)}",
                lambda: f"{self.text(depth - 1)} {self.pick(['in', 'not in', '<', '>='])} {self.text(depth - 1)}",
                lambda: f"{e()} {self.pick(['in', 'not in'])} {self.sequence(depth - 1)}",
                lambda: f"{b()} {self.pick(['and', 'or'])} {b()}",
                lambda: f"{e()} is {self.pick(['', 'not '])}{self.test(depth)}",
                lambda: f"({self.text(depth - 1)}).{self.pick(['startswith', 'endswith'])}({self.string()})",
                lambda: f"{self.atom()} is {self.pick(['defined', 'none', 'string', 'mapping', 'not defined'])}",
            ]
        )()

    def other(self, depth):
        e = lambda: self.expr(depth - 1)  # noqa: E731
        if depth <= 0:
            return self.pick(
                ["n", "zz", "messages[2].tool_calls", "d.c", "d", "dd[1]", "messages[3].nope", "d.c.k", "none"]
            )
        return self.pick(
            [
                lambda: self.other(0),
                lambda: f"({e()} if {self.truth(depth - 1)} else {e()})",
                lambda: f"({e()} or {e()})",
                lambda: f"({e()} and {e()})",
                lambda: f"({self.other(0)})|default({e()})",
                lambda: f"({self.sequence(depth - 1)})|first",
                lambda: f"d.get({self.string()}, {e()})",
                lambda: "{" + f"{self.string()}: {e()}, {self.pick(NUMBERS)}: {e()}" + "}",
                lambda: f"dict(a={e()}, b={e()})",
                lambda: f"({self.sequence(depth - 1)}|list)|last",
            ]
        )()

    def wild(self, depth):
        if depth <= 0:
            return self.atom()
        e = lambda: self.wild(depth - 1)  # noqa: E731
        return self.pick(
            [
                lambda: f"{e()} {self.pick(['+', '-', '*', '/', '//', '%', '~', '**'])} {e()}",
                lambda: f"{e()}|{self.pick(FILTERS0)}",
                lambda: f"{e()} {self.pick(['==', '!=', '<', '<=', '>', '>=', 'in', 'not in'])} {e()}",
                lambda: f"({e()})|{self.filter(depth)}",
                lambda: f"({e()}).{self.method(depth)}",
                lambda: f"({e()})[{self.subscript(depth)}]",
                lambda: f"{e()}.{self.pick(['role', 'content', 'b', 'k', 'v', '0', 'nope', 'items', 'c'])}",
                lambda: f"({e()}).{self.pick(METHODS0)}()",
                lambda: f"{self.pick(['not ', '-', '+'])}{e()}",
            ]
        )()

    def subscript(self, depth, slices=False):
        if not slices and self.r.random() < 0.3:
            return self.pick(["0", "-1", "1", "'a'", "'role'", "'content'", "5", "x", self.number(depth - 1)])
        part = lambda: self.pick(["", "", "0", "1", "-1", "2", "-2", "5", "none"])  # noqa: E731
        return f"{part()}:{part()}" + (f":{self.pick(['', '1', '-1', '2', '-2'])}" if self.r.random() < 0.4 else "")

    def filter(self, depth):
        a = lambda: self.expr(depth - 2)  # noqa: E731
        flag = self.pick(["true", "false"])
        return self.pick(
            [
                lambda: f"join({self.string()})",
                lambda: f"replace({self.string()}, {self.string()})",
                lambda: f"replace({self.string()}, {self.string()}, {self.pick(['0', '1', '2', '-1'])})",
                lambda: f"default({a()}, {flag})",
                lambda: f"d({a()})",
                lambda: f"round({self.pick(['0', '1', '2', '-1'])})",
                lambda: f"round(1, '{self.pick(['ceil', 'floor', 'common'])}')",
                lambda: f"int({a()})",
                lambda: f"float({a()})",
                lambda: f"sort(reverse={flag})",
                lambda: f"sort(case_sensitive={flag})",
                lambda: f"sort(attribute='{self.pick(['k', 'v', 'v,k', 'role'])}')",
                lambda: f"map(attribute='{self.pick(['k', 'v', 'role', 'content', '0', 'a.b'])}')|list",
                lambda: f"map('{self.pick(FILTERS0)}')|list",
                lambda: f"select('{self.pick(TESTS0)}')|list",
                lambda: f"reject('{self.pick(TESTS0)}')|list",
                lambda: f"selectattr('{self.pick(['k', 'v', 'role', 'n'])}')|list",
                lambda: f"selectattr('{self.pick(['k', 'v', 'role'])}', "
                f"'{self.pick(['equalto', 'eq', 'ne', 'in', 'gt'])}', {a()})"
                "|list",
                lambda: f"rejectattr('{self.pick(['k', 'v', 'role', 'n'])}', 'defined')|list",
                lambda: f"tojson(indent={self.pick(['0', '1', '2', '4', 'none'])})",
                lambda: f"tojson(sort_keys={flag})",
                lambda: f"tojson(ensure_ascii={flag})",
                lambda: f"indent({self.pick(['0', '2', '4'])}, {flag}, {flag})",
                lambda: f"trim({self.string()})",
                lambda: f"truncate({self.pick(['3', '5', '8'])}, {flag}, '.', {self.pick('012')})",
                lambda: f"batch({self.pick('123')})|list",
                lambda: f"batch(2, {a()})|list",
                lambda: f"slice({self.pick('123')})|list",
                lambda: f"slice(3, {a()})|list",
                lambda: f"groupby('{self.pick(['k', 'v', 'role'])}')|list",
                lambda: f"unique(attribute='{self.pick(['k', 'v'])}')|list",
                lambda: f"sum(attribute='v')",
                lambda: f"min(attribute='{self.pick('kv')}')",
                lambda: f"max(attribute='{self.pick('kv')}')",
                lambda: f"format({a()})",
                lambda: f"format({a()}, {a()})",
                lambda: f"center({self.pick(['3', '10'])})",
                lambda: f"dictsort({flag}, '{self.pick(['key', 'value'])}', {flag})",
                lambda: f"attr('{self.pick(['k', 'items'])}')",
                lambda: "length + 1",
                lambda: "list|length",
                lambda: "string|length",
                lambda: "items|list",
                lambda: "reverse|list",
            ]
        )()

    def method(self, depth):
        a = lambda: self.expr(depth - 2)  # noqa: E731
        n = lambda: self.pick(["0", "1", "2", "-1", "-2", "5"])  # noqa: E731
        return self.pick(
            [
                lambda: f"split({self.string()})",
                lambda: f"split({self.string()}, {n()})",
                lambda: f"rsplit({self.string()}, {n()})",
                lambda: f"split(none, {n()})",
                lambda: f"rsplit(none, {n()})",
                lambda: f"strip({self.string()})",
                lambda: f"lstrip({self.string()})",
                lambda: f"rstrip({self.string()})",
                lambda: f"startswith({self.string()})",
                lambda: f"endswith({self.string()})",
                lambda: f"startswith({a()})",
                lambda: f"startswith({self.string()}, {n()}, {n()})",
                lambda: f"endswith({self.string()}, {n()}, {n()})",
                lambda: f"replace({self.string()}, {self.string()})",
                lambda: f"replace({self.string()}, {self.string()}, {n()})",
                lambda: f"find({self.string()})",
                lambda: f"rfind({self.string()}, {n()})",
                lambda: f"count({self.string()}, {n()})",
                lambda: f"find({self.string()}, {n()}, {n()})",
                lambda: f"rfind({self.string()}, {n()}, {n()})",
                lambda: f"index({self.string()})",
                lambda: f"join({a()})",
                lambda: f"get({self.string()})",
                lambda: f"get({self.string()}, {a()})",
                lambda: f"partition({self.string()})",
                lambda: f"rpartition({self.string()})",
                lambda: f"center({self.pick(['3', '8'])}, '*')",
                lambda: f"ljust(5)",
                lambda: f"rjust(6, '-')",
                lambda: f"zfill({self.pick(['2', '6'])})",
                lambda: f"format({a()}, {a()})",
                lambda: f"removeprefix({self.string()})",
                lambda: f"removesuffix({self.string()})",
                lambda: "splitlines(true)",
                lambda: f"count({a()})",
                lambda: f"index({a()})",
                lambda: "expandtabs(4)",
            ]
        )()

    def test(self, depth):
        a = lambda: self.expr(depth - 2)  # noqa: E731
        return self.pick(
            [lambda: self.pick(TESTS0)] * 3
            + [
                lambda: f"in {self.atom()}",
                lambda: f"divisibleby {self.pick('123')}",
                lambda: f"eq({a()})",
                lambda: f"equalto({a()})",
                lambda: f"gt({a()})",
                lambda: f"sameas({self.pick(['none', 'true', 'x'])})",
            ]
        )()

    def tag(self, text):
        return "{%" + self.pick(["", "", "", "-", "+"]) + " " + text + " " + self.pick(["", "", "", "-"]) + "%}"

    def data(self):
        return self.pick(
            ["", "a", " ", "\n", "  \n", "\n  ", "x\n", " b ", "\t", "\r\n", "<", "{", "}", "% ", "é", "\u00a0"]
        )

    def body(self, depth):
        return "".join(self.statement(depth - 1) for _ in range(self.r.randint(1, 3)))

    def statement(self, depth=3):
        k = self.r.randrange(30) if depth > 0 else self.r.randrange(12)
        if k < 4:
            return self.data()
        if k < 11:
            sign, end = self.pick(["", "", "-"]), self.pick(["", "", "-"])
            return "{{" + sign + " " + self.expr() + " " + end + "}}" + self.data()
        if k < 12:
            return self.pick(
                ["{# c #}", "{#- c -#}", "{% raw %}{{ x }}{% endraw %}", "{%- raw -%} {% y {% endraw -%}\n"]
            )
        if k < 17:
            out = self.tag(f"if {self.truth(2)}") + self.body(depth)
            if self.r.random() < 0.3:
                out += self.tag(f"elif {self.expr(2)}") + self.body(depth)
            if self.r.random() < 0.5:
                out += self.tag("else") + self.body(depth)
            return out + self.tag("endif")
        if k < 22:
            target = self.pick(["i", "i", "i", "x", "m"])
            it = self.pick(["l", "w", "messages", "dd", "d", "range(3)", "s", self.sequence(2)])
            if self.r.random() < 0.1:
                target, it = "k, v", self.pick(["d.items()", "d|items", "d|dictsort"])
            tail = f" if {self.truth(1)}" if self.r.random() < 0.2 else ""
            self.loops += 1
            inside = self.body(depth)
            if self.r.random() < 0.5:
                inside += (
                    "{{ loop."
                    + self.pick(
                        [
                            "index",
                            "index0",
                            "first",
                            "last",
                            "length",
                            "revindex",
                            "previtem",
                            "nextitem",
                            "depth",
                            "cycle('a', 'b')",
                            "changed(x)",
                        ]
                    )
                    + " }}"
                )
            self.loops -= 1
            out = self.tag(f"for {target} in {it}{tail}") + inside
            if self.r.random() < 0.2:
                out += self.tag("else") + self.body(depth)
            return out + self.tag("endfor")
        if k < 25:
            name = self.pick(["q", "i", "zz", "q", "a", "x"])
            return self.tag(f"set {name} = {self.expr(2)}")
        if k < 26:
            return self.tag(f"set {self.pick(['q', 'x'])}") + self.body(depth) + self.tag("endset")
        if k < 27:
            return (
                "{% set ns = namespace(v="
                + self.atom()
                + ") %}"
                + self.body(depth)
                + "{% set ns.v = "
                + self.expr(2)
                + " %}{{ ns.v }}"
            )
        if k < 28:
            loops, self.loops = self.loops, 0
            inside = self.body(depth)
            self.loops = loops
            return (
                "{% macro mm(a, b="
                + self.expr(1)
                + ") %}"
                + inside
                + "{{ a }}{{ b }}{% endmacro %}"
                + "{{ mm("
                + self.args(2, 0, 2)
                + ") }}"
            )
        if k < 29:
            if self.loops:
                return "{% if " + self.expr(1) + " %}{% " + self.pick(["break", "continue"]) + " %}{% endif %}"
            return self.tag(f"with q = {self.expr(2)}") + self.body(depth) + "{{ q }}" + self.tag("endwith")
        return (
            self.tag("filter " + self.pick(["upper", "trim", "indent(2)", "replace('a', 'b')"]))
            + self.body(depth)
            + self.tag("endfilter")
        )

    def template(self):
        return "".join(self.statement() for _ in range(self.r.randint(1, 5)))


def render(source):
    try:
        return {"o": chat._cached_compile_jinja_template(source).render(**copy.deepcopy(CONTEXT))}
    except RecursionError:
        return {"skip": True}
    except Exception as err:  # noqa: BLE001
        return {"e": f"{type(err).__name__}: {err}"}


def run_lua(sources):
    text = "".join(json.dumps({"t": s, "c": CONTEXT}) + "\n" for s in sources)
    done = subprocess.run(
        ["lua5.4", os.path.join(HERE, "..", "lua", "render_lines.lua"), NOW.isoformat()],
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def is_unstable(text):
    """Text that holds addresses, or numbers that only Python has."""
    return (
        re.search(r"0x[0-9a-f]{6,}|\d{19,}|<generator|<built-in|<method|[(-]\d+(\.\d+)?[+-]\d+.*j\)", text) is not None
    )


def main():
    seed, rounds, size = (int(a) for a in (sys.argv[1:] + ["1", "10", "500"][len(sys.argv) - 1 :]))
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, lambda *_: sys.exit("jinja2 did not end"))
    differ = same = both = 0
    for number in range(rounds):
        sources = [Maker(f"{seed}/{number}/{i}").template() for i in range(size)]
        for source, ours in zip(sources, run_lua(sources)):
            signal.alarm(20)
            theirs = render(source)
            signal.alarm(0)
            if "skip" in theirs or is_unstable(theirs.get("o", "")):
                continue
            if "o" in theirs and ours.get("o") == theirs["o"]:
                same += 1
            elif "e" in theirs and "e" in ours and not ours["m"].startswith("the template engine"):
                both += 1
            elif ours.get("e") == "limit" or "complex numbers" in ours.get("m", ""):
                continue
            else:
                differ += 1
                print(json.dumps({"template": source, "jinja2": theirs, "ours": ours}, ensure_ascii=False))
    print(f"{same} equal, {both} errors in both, {differ} differ")
    return 1 if differ else 0


if __name__ == "__main__":
    sys.exit(main())
