"""From a question to the words worth searching for.

Deterministic and small: stop words of the three languages that people ask in (English, Italian, Indonesian), a short
list of words that mean the same, and a light stem for finding a word in a sentence. Nothing here is search syntax:
whoever asks can't reach the index's query language (see `index.py`).
"""

import re
import unicodedata
from typing import Final

import msgspec

MAX_TERMS: Final = 24
"""Most words of one question that are searched for; further ones are left out."""
MAX_QUESTION_CHARS: Final = 4_000
"""What of a question is read at all. A longer one has said what it wants by then."""

_WORD: Final = re.compile(r"[^\W_]+")
_HYPHENATED_CODE: Final = re.compile(r"\b([a-z])-(\d{1,3}[a-z]?)\b")
_SHORTEST_WORD: Final = 2
_OPEN_STEM_CHARS: Final = 4
"""A stem this long or longer also finds its longer forms; a shorter one only its plural (`tax` isn't `taxi`)."""

_ENGLISH: Final = """
    a about above after again all also am an and any are as at be because been before being but by can could did
    do does doing don for from give had has have having he her here hers him his how i if in into is it its
    just know let like ll long make many may me might mine more most much must my need needed needs no nor not
    now of off ok on once one only or other our out over own per please re really s same say says shall she
    should show so some still such t tell than thank thanks that the their them then there these they thing
    things this those to too under until up us use ve very want was way we were what whats when where which
    while who whom whose why will with without would you your yours hello hi hey good morning afternoon evening
    happen happens happened explain describe help question answer understand mean means meaning exactly actually
"""
_ITALIAN: Final = """
    ad ai al alla alle allo anche ancora avere aveva avuto c che chi ciao cio coi col come con cos cosa cosi cui da
    dai dal dalla dalle dallo degli dei del dell della delle dello di dire dove due e ed era essere fa fare fino
    fra gli grazie ha hai hanno ho il io la le lei li lo loro lui ma mi mia mie mio miei molto ne negli nei nel
    nella nelle nello noi non nostra nostro o ogni oppure per perche pero piu poi posso possono prego puo puoi
    qual quale quali quando quanti quanto quanta quella quello questa questi questo qui se sei senza serve
    servono si sia sono sta sto su sua sue sui sul sulla sulle suo suoi te ti tra tu tua tuo tutti tutto un una
    uno voi vorrei devo deve buongiorno buonasera salve bisogno dimmi spiega mentre circa
"""
_INDONESIAN: Final = """
    ada adalah agar akan aku anda apa apakah atau bagaimana bagi bahwa banyak berapa bila bisa boleh dalam dan
    dapat dari dengan di dia harus hanya ini itu jadi jika juga kah kalau kami kamu kapan karena ke kepada kita
    lagi mana mau mereka mohon nya oleh pada para perlu saat saja saya sebagai sebuah secara sedang seperti
    semua siapa sudah telah tentang terima kasih tersebut tetapi tidak tolong untuk yang ya selamat pagi siang
    sore malam halo jelaskan membutuhkan butuh
"""

STOP_WORDS: Final = frozenset(f"{_ENGLISH} {_ITALIAN} {_INDONESIAN}".split())
"""Words that say nothing of what is asked for, folded."""

_SAME_MEANING: Final[dict[str, tuple[str, ...]]] = {
    word: forms
    for words, forms in (
        # English
        ("cost costs price prices fee fees", ("cost", "fee", "price")),
        ("document documents paper papers paperwork requirement requirements", ("document", "requirement")),
        ("extend extends extending extension extensions renew renewal prolong", ("extend", "extension", "renew")),
        ("license licence licenses licences", ("licence", "license")),
        ("house home villa apartment estate realty", ("property", "villa", "house")),
        ("employ employment job jobs", ("work", "employ")),
        ("retire retired retiree pension pensioner", ("retirement", "retire")),
        ("nomad nomads", ("nomad", "remote")),
        ("penalty penalties", ("penalty", "fine")),
        ("levy tourism", ("levy", "tourist")),
        ("get gets getting obtain obtaining apply applying", ("get", "apply")),
        # Italian
        ("visto visti", ("visa",)),
        ("documento documenti requisiti requisito", ("document", "requirement")),
        ("tassa tasse imposta imposte fisco fiscale", ("tax",)),
        ("azienda aziende societa impresa imprese ditta", ("company",)),
        ("patente guidare guida", ("licence", "driving")),
        ("casa terreno terra immobile immobili proprieta appartamento", ("property", "land")),
        ("costo costi costa prezzo prezzi", ("cost", "fee", "price")),
        ("permesso permessi", ("permit",)),
        ("soggiorno", ("stay",)),
        ("lavoro lavorare lavori", ("work",)),
        ("turista turisti turistico turistica", ("tourist", "tourism")),
        ("multa multe", ("fine",)),
        ("pensione pensionato pensionati", ("retirement",)),
        ("investitore investitori investimento", ("investor", "investment")),
        ("estendere prolungare rinnovare rinnovo proroga", ("extend", "extension", "renew")),
        ("passaporto", ("passport",)),
        ("straniero stranieri straniera", ("foreigner", "foreign")),
        ("arrivo", ("arrival",)),
        ("paga pagare pagano pagamento", ("pay",)),
        ("giorno giorni", ("day",)),
        ("banca conto bancario", ("bank",)),
        ("aprire apro", ("open",)),
        ("ottenere ottengo richiedere", ("get", "apply")),
        # Indonesian
        ("dokumen syarat persyaratan", ("document", "requirement")),
        ("pajak", ("tax",)),
        ("perusahaan usaha bisnis", ("company", "business")),
        ("izin ijin", ("permit",)),
        ("tinggal", ("stay",)),
        ("kerja bekerja pekerjaan", ("work",)),
        ("tanah rumah properti", ("property", "land")),
        ("biaya harga tarif", ("cost", "fee", "price")),
        ("denda", ("fine",)),
        ("wisata wisatawan turis pungutan", ("tourist", "levy")),
        ("perpanjang perpanjangan memperpanjang", ("extend", "extension", "renew")),
        ("pensiun lansia", ("retirement",)),
        ("sewa menyewa", ("lease", "rent")),
        ("paspor", ("passport",)),
        ("asing", ("foreigner", "foreign")),
        ("kedatangan", ("arrival",)),
        ("mengemudi", ("driving", "licence")),
        ("bayar membayar", ("pay",)),
        ("hari", ("day",)),
        ("buka membuka", ("open",)),
        ("mendapatkan memperoleh mengajukan", ("get", "apply")),
        ("rekening", ("bank", "account")),
    )
    for word in words.split()
}


class Term(msgspec.Struct, frozen=True):
    """One thing asked for. `forms` are its spellings, folded single words, the asked one first; any of them finds it.

    With `is_prefix` a word that begins like one of them will do.
    """

    forms: tuple[str, ...]
    is_prefix: bool = False


def fold(text: str) -> str:
    """Give the text without case, accents and underscores, as the index compares it."""
    text = text.replace("_", " ")
    if text.isascii():
        return text.lower()
    decomposed = unicodedata.normalize("NFKD", text)
    return "".join(char for char in decomposed if not unicodedata.combining(char)).casefold()


def terms_of(question: str) -> tuple[Term, ...]:
    """Give what the question asks for, in its order, each once, at most `MAX_TERMS`. Empty: nothing but small talk."""
    folded = _HYPHENATED_CODE.sub(r"\1\2", fold(question[:MAX_QUESTION_CHARS]))
    found: dict[tuple[str, ...], Term] = {}
    for word in _WORD.findall(folded):
        if len(word) < _SHORTEST_WORD or word in STOP_WORDS:
            continue
        synonyms = _SAME_MEANING.get(word, ())
        term = Term((word, *(form for form in synonyms if form != word)))
        found.setdefault(tuple(sorted(synonyms or (word,))), term)
        if len(found) == MAX_TERMS:
            break
    return tuple(found.values())


def pattern_of(terms: tuple[Term, ...]) -> re.Pattern[str]:
    """Give one pattern that finds every term in folded text; `lastindex` of a match is the term's place, 1-based."""
    words = "|".join(f"({_word_pattern(term)})" for term in terms)
    return re.compile(rf"\b(?:{words})\b" if words else r"(?!)")


def _word_pattern(term: Term) -> str:
    if term.is_prefix:
        return "|".join(rf"{re.escape(form)}\w*" for form in term.forms)
    return "|".join(f"{re.escape(stem)}{_tail(stem)}" for stem in dict.fromkeys(map(_stem, term.forms)))


def _tail(stem: str) -> str:
    return r"\w{0,5}" if len(stem) >= _OPEN_STEM_CHARS and stem.isalpha() else r"(?:e?s)?"


def _stem(word: str) -> str:
    """Cut an English ending; never shorter than four letters. `companies` and `company` both give `compan`."""
    for ending in ("ing", "ies", "ly", "es", "ed", "s", "e", "y"):
        if word.endswith(ending) and not word.endswith("ss") and len(word) - len(ending) >= _OPEN_STEM_CHARS:
            return word[: -len(ending)]
    return word
