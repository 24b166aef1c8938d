"""A small text in many scripts, written for this report, so that it has something to count without any file."""

TEXTS: tuple[tuple[str, str], ...] = (
    (
        "English",
        "The harbour woke before the town did. Two gulls argued over a crust while Marta's boat, the Second Chance, "
        "was pulled up the slipway by hand. \"You're late,\" said her brother; she wasn't. They had until a quarter "
        "past six to load forty-one crates of ice, and the forecast promised fog.\n\nBy noon nobody could see the "
        "lighthouse. It's odd how quickly a familiar place becomes a rumour: you hear the bell, you smell the tar, "
        "but the water in front of you could belong to any coast in the world.\n",
    ),
    (
        "Western Europe",
        "À l'aube, le boulanger ouvrit sa fenêtre : déjà trois élèves attendaient, les mains dans les poches.\n"
        "Der Zug nach Österreich fährt heute später; größere Störungen werden nicht erwartet.\n"
        "¿Quién dejó la puerta abierta? Mañana habrá que barrer otra vez toda la arena del pasillo.\n"
        "Na última manhã, ninguém reparou que o relógio da estação tinha parado às sete e dez.\n",
    ),
    (
        "Eastern Europe",
        "Źle zaparkowany wóz blokował całą ulicę, więc listonosz poszedł pieszo.\n"
        "Příliš mnoho šálků čaje zůstalo na stole, a nikdo je nechtěl umýt.\n"
        "Старый мост починили только весной: до этого все переправлялись на лодке, даже почтальон.\n"
        "Το καράβι άργησε, αλλά κανείς στο νησί δεν παραπονέθηκε.\n",
    ),
    (
        "Middle East and India",
        "وصل القطار متأخراً، فجلسنا نشرب الشاي وننتظر أن يهدأ المطر.\n"
        "הרכבת איחרה, ולכן ישבנו לשתות תה וחיכינו שהגשם ייפסק.\n"
        "गाँव का पुराना पुल बारिश में बह गया था, इसलिए बच्चे नाव से स्कूल जाते थे।\n"
        "மழை நின்றதும் சந்தை மீண்டும் திறந்தது.\n",
    ),
    (
        "East Asia",
        "清晨的渡口没有人，只有一条旧船靠在岸边。老人说，雾散之前谁也不会过河。\n"
        "駅前のパン屋は朝五時に開く。焼きたての匂いにつられて、猫まで並んでいた。\n"
        "비가 그치자 시장 사람들이 천막을 걷고 다시 가게를 열었다.\n"
        "สะพานเก่าถูกซ่อมเสร็จเมื่อเดือนที่แล้ว\n",
    ),
    (
        "code",
        'def moving_average(values: list[float], window: int = 3) -> list[float]:\n    """Mean of each run."""\n'
        '    if not 0 < window <= len(values):\n        raise ValueError(f"window {window!r} does not fit")\n'
        "    return [sum(values[i - window : i]) / window for i in range(window, len(values) + 1)]\n\n\n"
        "for (size_t i = 0; i < n; ++i) {\n\tif (buf[i] == '\\0' || (flags & 0xFF00) != 0) {\n\t\tbreak;\n\t}\n}\n"
        '{"id": 17, "tags": ["fog", "ice"], "nested": {"ok": true, "ratio": -1.5e-3, "none": null}}\n'
        "SELECT name, COUNT(*) AS n FROM visits WHERE year >= 1998 GROUP BY name ORDER BY n DESC;\n"
        "<ul class=\"menu\"><li><a href='#top'>Top</a></li></ul>  <!-- done -->\n",
    ),
    (
        "numbers",
        "Year\tBoats\tTonnes\n1998\t41\t1,204.5\n2007\t38\t987.25\n2023\t112\t13,000\n\n"
        "3.14159265 + 2.71828 = 5.85987; 2^10 = 1024; 1/3 ≈ 0.333; call +44 20 7946 0958 before 18:45 on 2024-02-29.\n"
        "Ⅳ, ½, 10⁻³ and ١٢٣ are numbers too.\n",
    ),
    (
        "emoji and symbols",
        "Fog again 🌫️… the cat 🐈‍⬛ slept, the family 👨‍👩‍👧‍👦 left 🚗💨 and I made tea ☕️👍🏽!\n"
        "∀x ∈ ℝ: x² ≥ 0 → ∑ xᵢ² ≠ −1; prices: 5 € < £7 ≤ ¥900 ± 10 %. ★★★☆☆ ✓ ✗ ©™ ¯\\_(ツ)_/¯ 🇪🇺🇯🇵\n",
    ),
)
