"""Texts that try a tokenizer: many scripts, code, odd spaces, special tokens, random Unicode.

The same seed gives the same texts."""

import random
import unicodedata

# One small story, retold for each script: the moon, the tide, a boat, bread, numbers.
PHRASES = {
    "Latin": [
        "The moon pulls the sea, and the sea follows twice a day.",
        "Où est la bibliothèque ? Elle n'est pas loin d'ici, j'en suis sûr.",
        "Zwölf Boxkämpfer jagen Eva quer über den Sylter Deich; größer geht's nicht!",
        "El niño comió 3 ñoquis y pidió más.",
        "Trăng kéo nước biển lên rồi lại hạ xuống, ngày hai lần.",
        "Łódź płynie wśród żółtych świateł, a księżyc śpi.",
        "İstanbul'da ılık bir gece; gemiler ışıldıyor.",
        "Þetta er mjög gott brauð, sagði ömmu systir.",
        "Măr și pâine: 12,50 lei.",
    ],
    "Cyrillic": [
        "Луна тянет море, и море идёт за ней дважды в день.",
        "Їжак з'їв п'ять яблук і ґудзик.",
        "Ћирилица и Џез: 1234 љубичице.",
    ],
    "Greek": ["Το φεγγάρι τραβά τη θάλασσα δύο φορές την ημέρα.", "Ὁ ἄνθρωπος φύσει πολιτικὸν ζῷον ἐστίν."],
    "Armenian": ["Լուսինը ձգում է ծովը օրական երկու անգամ։"],
    "Georgian": ["მთვარე ზღვას დღეში ორჯერ იზიდავს.", "ᲛᲗᲕᲐᲠᲔ და ზღვა"],
    "Hebrew": ["הירח מושך את הים פעמיים ביום.", "שָׁלוֹם עֲלֵיכֶם"],
    "Arabic": ["القمر يجذب البحر مرتين في اليوم.", "السَّلَامُ عَلَيْكُمْ ١٢٣٤", "ماه دریا را می‌کشد؛ ۵۶۷۸."],
    "Devanagari": ["चंद्रमा दिन में दो बार समुद्र को खींचता है।", "क़लम ज़रूर लाना, १२३ रुपये।"],
    "Bengali": ["চাঁদ দিনে দুবার সমুদ্রকে টানে। ৪৫৬"],
    "Gurmukhi": ["ਚੰਦ ਦਿਨ ਵਿੱਚ ਦੋ ਵਾਰ ਸਮੁੰਦਰ ਨੂੰ ਖਿੱਚਦਾ ਹੈ।"],
    "Gujarati": ["ચંદ્ર દિવસમાં બે વાર દરિયાને ખેંચે છે."],
    "Tamil": ["நிலவு ஒரு நாளைக்கு இரண்டு முறை கடலை இழுக்கிறது."],
    "Telugu": ["చంద్రుడు రోజుకు రెండుసార్లు సముద్రాన్ని లాగుతాడు."],
    "Kannada": ["ಚಂದ್ರನು ದಿನಕ್ಕೆ ಎರಡು ಬಾರಿ ಸಮುದ್ರವನ್ನು ಎಳೆಯುತ್ತಾನೆ."],
    "Malayalam": ["ചന്ദ്രൻ ദിവസത്തിൽ രണ്ടുതവണ കടലിനെ വലിക്കുന്നു."],
    "Sinhala": ["සඳ දවසට දෙවරක් මුහුද ඇද ගනී."],
    "Thai": ["ดวงจันทร์ดึงทะเลวันละสองครั้ง ๑๒๓"],
    "Lao": ["ດວງຈັນດຶງທະເລມື້ລະສອງຄັ້ງ"],
    "Khmer": ["ព្រះចន្ទទាញសមុទ្រពីរដងក្នុងមួយថ្ងៃ។"],
    "Myanmar": ["လသည် ပင်လယ်ကို တစ်နေ့ နှစ်ကြိမ် ဆွဲသည်။"],
    "Tibetan": ["ཟླ་བས་ཉིན་རེར་རྒྱ་མཚོ་ཐེངས་གཉིས་འཐེན།"],
    "Ethiopic": ["ጨረቃ ባሕርን በቀን ሁለት ጊዜ ትስባለች። ፩፪፫"],
    "Han": ["月亮每天两次牵引大海。", "月亮每天兩次牽引大海，漁船回港。", "人民币１２３４元"],
    "Japanese": ["月は一日に二度、海を引きよせる。", "コンピュータでプログラムを書く。ﾊﾝｶｸ ｶﾞ", "が か゛ ば は\u3099"],
    "Hangul": ["달은 하루에 두 번 바다를 끌어당긴다.", "\u1112\u1161\u11ab\u1100\u1173\u11af 한글"],
    "Cherokee": ["ᎠᏂᎩᏚᏩᎩ ᎦᏬᏂᎯᏍᏗ ꭰꮒ"],
    "Mongolian": ["ᠰᠠᠷᠠ ᠳᠠᠯᠠᠢ\u180eᠶᠢ"],
}
CODE = [
    "def f(x, *, y=None):\n    \"\"\"Doc.\"\"\"\n    return [i**2 for i in range(10) if i % 2 == 0]\n",
    "#include <stdio.h>\nint main(void)\n{\n\tprintf(\"%d\\n\", 0x1F << 3);\r\n\treturn 0; /* done */\n}\n",
    "local M = {}\nfunction M.go(a, ...)\n  return a ~= nil and #a // 2 or nil\nend\n",
    "SELECT * FROM t WHERE a <> 'it''s' AND b >= 1.5e-10;",
    "<div class=\"x\">&nbsp;<a href='?q=1&amp;r=%20'>link</a></div>\n\n\n",
    "for (let i = 0; i < n; ++i) { a[i] ||= b?.[i] ?? `${c}`; }",
    "https://example.org/a/b_c-d?e=f#g user@example.com 192.168.0.1 C:\\dir\\file.txt",
    "{\"key\": [1, 2.5, -3e8, null, true], \"s\": \"\\u00e9\"}",
    "| a | b |\n|---|:-:|\n| 1 | 2 |\n",
    "```python\nprint('hi')\n```\n- [x] done\n  * item\n1. one\n",
    "\\frac{a}{b} \\sum_{i=0}^{n} x_i^2 $\\alpha$",
]
EMOJI = [
    "😀",
    "👍🏽",
    "👩‍👩‍👧‍👦",
    "🏳️‍🌈",
    "🇩🇪🇫🇷",
    "❤️",
    "☕︎",
    "1️⃣",
    "🫠",
    "🪿",
    "\U0001fae8",
    "\U0001fadf",
    "🤷🏿‍♀️",
]
SPACES = [
    " ",
    "  ",
    "   ",
    "\t",
    "\t\t",
    "\n",
    "\n\n",
    "\n\n\n\n",
    "\r\n",
    "\r",
    "\u00a0",
    "\u2003",
    "\u3000",
    "\u200b",
    "\u180e",
    "\u0085",
    "\v",
    "\f",
    "\u2028",
    "\u2029",
    "\u202f",
    "\ufeff",
    "\u205f",
    "\u1680",
    " \n",
    "\n ",
    " " * 16,
    "\x1c",
    "\x1f",
    "\0",
    "\u2060",
]
CONTRACTIONS = [
    "don't",
    "I'M",
    "we'LL",
    "they've",
    "it's",
    "IT'S",
    "you'd",
    "'tis",
    "o'clock",
    "rock'n'roll",
    "it’s",
    "'\u017f",
    "x'\u017fy",
    "'re're",
    "''s",
]
MARKS = [
    "...",
    "!!!",
    "?!",
    "—",
    "–",
    "«»",
    "“x”",
    "¿",
    "§",
    "°C",
    "€5",
    "£",
    "¥",
    "±",
    "½",
    "²",
    "№",
    "…",
    "。",
    "、",
    "「」",
    "___",
    "***",
    "###",
    "==",
    "->",
    "<",
    ">",
    "</",
    "<|",
    "|>",
    "<<",
    ">>",
    "▁",
    "▁▁",
    "a▁b",
    "Ġ",
    "Ċ",
    "<0x41>",
    "<0xE2>",
    ">▁</",
    "> </",
    "#",
    "@",
    "`",
    "~",
    "^",
    "\\",
    "\x7f",
    "\x80",
]


def assigned():
    """Code points with a name here, and blocks that this Python may not know yet but the reference does."""
    points = [c for c in range(0x110000) if unicodedata.category(chr(c)) not in ("Cn", "Cs", "Co")]
    newer = [
        *range(0x10D40, 0x10D90),
        *range(0x105C0, 0x105F4),
        *range(0x11380, 0x113E3),
        *range(0x11BC0, 0x11BFA),
        *range(0x16100, 0x1613A),
        *range(0x16D40, 0x16D7A),
        *range(0x1E5D0, 0x1E600),
        *range(0x31350, 0x323B0),
        *range(0x2EBF0, 0x2EE5E),
        *range(0x1CC00, 0x1CEB4),
        *range(0x13430, 0x14400),
        *range(0x1C89, 0x1C8B),
        *range(0xA7CB, 0xA7DD),
        *range(0x11F00, 0x11F5A),
        *range(0x1E4D0, 0x1E4FA),
    ]
    return points, newer


class Texts:
    def __init__(self, seed=1, special=()):
        self.random = random.Random(seed)
        self.special = list(special)
        self.points, self.newer = assigned()
        self.scripts = sorted(PHRASES)
        self.words = sorted({w for name in self.scripts for p in PHRASES[name] for w in p.split()})
        self.marks = [c for c in self.points if unicodedata.combining(chr(c))]
        self.composed = [c for c in self.points if unicodedata.decomposition(chr(c))]
        self.blocks = [self.points[i : i + 128] for i in range(0, len(self.points), 128)]
        self.kinds = [
            self.natural,
            self.mixed,
            self.code,
            self.spaced,
            self.unicode_any,
            self.unicode_block,
            self.accents,
            self.specials,
            self.numbers,
            self.runs,
            self.joined,
            self.ascii_noise,
            self.emoji,
            self.hangul,
        ]

    def pick(self, items):
        return self.random.choice(items)

    def many(self, low, high, make, between=""):
        return between.join(make() for _ in range(self.random.randint(low, high)))

    def phrase(self):
        return self.pick(PHRASES[self.pick(self.scripts)])

    def natural(self):
        text = self.many(1, 4, self.phrase, " ")
        if self.random.random() < 0.4:  # a part of it
            i = self.random.randrange(len(text))
            text = text[i : i + self.random.randint(1, 60)]
        return self.random.choice([text, text, text.upper(), text.lower(), unicodedata.normalize("NFD", text)])

    def mixed(self):
        return self.many(1, 25, lambda: self.pick(self.words), self.pick([" ", " ", "  ", "\n", ", "]))

    def code(self):
        text = self.many(1, 2, lambda: self.pick(CODE), self.pick(["", "\n", " "]))
        return text if self.random.random() < 0.5 else text[self.random.randrange(len(text)) :]

    def spaced(self):
        return self.many(
            1, 14, lambda: self.pick([self.pick(SPACES), self.pick(SPACES), self.pick(self.words), self.pick(MARKS)])
        )

    def unicode_any(self):
        return self.many(
            1, 24, lambda: chr(self.pick(self.pick([self.points, self.points, self.newer]))), self.pick(["", "", " "])
        )

    def unicode_block(self):
        block = self.pick(self.blocks)
        return self.many(1, 30, lambda: self.pick([chr(self.pick(block)), chr(self.pick(block)), " ", "a"]))

    def accents(self):
        def one():
            base = self.pick(
                [self.pick("aeiouAEOUnNcC가か"), chr(self.pick(self.composed)), chr(self.pick(self.points))]
            )
            return base + self.many(0, 4, lambda: chr(self.pick(self.marks)))

        return self.many(1, 12, one, self.pick(["", " "]))

    def specials(self):
        if not self.special:
            return self.spaced()
        part = lambda: self.pick(
            [
                self.pick(self.special),
                self.pick(self.special),
                self.pick(self.words),
                self.pick(SPACES),
                self.pick(MARKS),
            ]
        )
        text = self.many(1, 12, part, self.pick(["", "", " "]))
        if self.random.random() < 0.2:  # a damaged one
            i = self.random.randrange(len(text))
            text = text[:i] + text[i + 1 :]
        return text

    def numbers(self):
        digits = lambda: self.pick(
            [
                "0123456789",
                "0123456789",
                "٠١٢٣٤٥٦٧٨٩",
                "०१२३४५६७८९",
                "²³¹½Ⅷ〇",
                "０１２３４",
                "\U0001d7d8\U0001d7e9",
                "\U0001fbf0\U0001fbf9",
            ]
        )
        return self.many(
            1, 8, lambda: self.many(1, 12, lambda: self.pick(digits())), self.pick([" ", ".", ",", "-", "x", ""])
        )

    def runs(self):
        unit = self.pick(
            [
                " ",
                "a",
                "\n",
                "=",
                "-",
                ".",
                "ab",
                "月",
                "😀",
                "\t",
                "▁",
                "é",
                "e\u0301",
                "x ",
                "9",
                "\u0301",
                "!",
                "\r\n",
            ]
        )
        return self.pick(["", "x", " "]) + unit * self.random.randint(2, 90) + self.pick(["", "x", " ", "\n"])

    def joined(self):
        return self.many(
            1,
            10,
            lambda: self.pick([self.pick(CONTRACTIONS), self.pick(MARKS), self.pick(self.words)]),
            self.pick(["", " "]),
        )

    def ascii_noise(self):
        return self.many(1, 60, lambda: chr(self.random.randint(0, 127)))

    def emoji(self):
        return self.many(1, 9, lambda: self.pick([self.pick(EMOJI), self.pick(EMOJI), " ", self.pick(self.words)]))

    def hangul(self):
        return self.many(
            1,
            16,
            lambda: chr(self.pick([self.random.randint(0x1100, 0x11FF), self.random.randint(0xAC00, 0xD7A3), 0x20])),
        )

    def one(self):
        return self.pick(self.kinds)()

    def document(self, characters):
        """Longer natural text and code, with paragraphs."""
        parts, size = [], 0
        while size < characters:
            part = self.pick([self.natural, self.natural, self.mixed, self.mixed, self.code])()
            parts.append(part)
            size += len(part) + 1
        return "\n".join(parts)
