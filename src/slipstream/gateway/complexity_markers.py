"""Words that tell what kind of work a prompt asks for, in the languages that are asked most.

One marker is one kind of work: it counts once, however often its words come. Patterns look at the instruction only, not
at quoted text or code, in lower case, and hold no repetition inside a repetition: their time is linear in the text.
"""

from __future__ import annotations

import re
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Marker:
    """A kind of work, what it adds to the score, and the words it is known by."""

    name: str
    points: int
    words: re.Pattern[str]


def _marker(name: str, points: int, *alternatives: str) -> Marker:
    return Marker(name, points, re.compile("|".join(alternatives)))


# Work of many steps: every kind that is found counts.
MANY_STEPS = (
    _marker(
        "proof",
        7,
        r"\b(?:prove|disprove|refute|theorem|lemma|counterexample|show that (?:every|any|all|no|the|there))\b",
        r"\b(?:np-(?:hard|complete)|full argument|by induction)\b",
        r"\bbew(?:eise|eisen|eis)\b|\bwiderleg",
        r"\bd[ée]montre[rz]?\b|\bdemuestr[ae]|\bdemostrar|\bdimostr[aio]|\bdemonstre|\bprove que\b",
        r"\bдокаж|\bдоказа|证明|證明|証明|증명|\budowodni|\bbevisa|\bkanıtla|\bbewijs\b|सिद्ध क|برهن|أثبت",
    ),
    _marker(
        "derivation",
        6,
        r"\b(?:derive|derivation|first principles|integral|eigen\w+|maximum likelihood|equilibrium|recurrence)\b",
        r"\bleite\b.{0,80}\bher\b|\bherleit|\bwywod|\bвывед|\bвывод форм|推导|推導|導出|유도",
    ),
    _marker(
        "search",
        4,
        r"\b(?:find all|how many ways|fewest|optimal|shortest|fastest|integer program|decision tree"
        r"|equation of motion)\b",
        r"\bfinde? alle\b|\bschnellste|\btrouve[rz]? tou|\bencuentra tod|\btrova tutt",
        r"\bнайдите все|找出所有|すべて求め",
    ),
    _marker(
        "system design",
        5,
        r"\b(?:design|architect|specify|model) (?:a|an|the|our)\b.{0,60}\b(?:system|backend|service|protocol|algorithm"
        r"|pipeline|platform|database|schema|api|network|shortener|editor|store|queue|cluster|postgresql|rota)",
        r"\b(?:architecture|microservices?|fault.toleran\w+|failure modes?|replicas?|sharding|without downtime)\b",
        r"\b(?:entwirf|entwerfe|architektur|ausfallsicher\w*)\b|\bcon[cç]e[vz]\w* (?:un|une)\b|\barchitecture\b",
        r"\bdise[ñn]a (?:un|una)\b|\barquite(?:c|t)tura\b|\barquitetura\b|\barquitectura\b|\bprojete\b|\bprogetta\b",
        r"设计|設計|架构|설계|\bспроектируй|\bархитектур|\bzaprojektuj|\btasarla",
    ),
    _marker(
        "program",
        5,
        r"\b(?:write|build|implement|create|develop|code)\b.{0,24}\b(?:interpreter|compiler|parser|engine|game|app"
        r"|application|rest api|api|server|library|framework|database|scheduler|type checker|simulator|tree"
        r"|allocat\w+)\b",
        r"\b(?:refactor|pull request|code ?base|modules|migrations?)\b",
        r"调度器|解释器|编译器|\bкомпилятор|\bинтерпретатор",
    ),
    _marker(
        "algorithm",
        3,
        r"\b(?:algorithm|complexity|o\((?:1|n|log)|invariants?|heuristic|data structure|dynamic programming)",
        r"\balgorithm(?:us|e)\b|\balgoritm|\bалгоритм|算法|アルゴリズム|알고리즘|复杂度",
    ),
    _marker(
        "diagnosis",
        5,
        r"\b(?:root cause|deadlocks?|data race|race condition|find the race|memory leak|leak|diagnose|rule out)\b",
        r"\b(?:where do i (?:even )?(?:start|look)|what'?s (?:really )?(?:going on|causing)|only (?:in|on|for"
        r"|when) .{2,40}\bonly)\b",
        r"\b(?:(?:possible|candidate|several) causes|diverges|unstable|under load|p99|freezes|at random"
        r"|test plan|sometimes .{0,30}twice)\b",
        r"\b(?:ursachen|fehlersuche|schließe[n]? .{0,30}aus|causes possibles|causas posibles)\b|\bпричин|原因を|排查",
    ),
    _marker("threats", 5, r"\b(?:threat.model\w*|attack surface|attackers?|containment|replay(?:ed)?|residual risk)\b"),
    _marker(
        "analysis",
        4,
        r"\b(?:analy[sz]e|evaluate|assess|apprais\w+|critique|synthesi[sz]e|reconstruct|weigh|judge|trade-?offs?)\b",
        r"\b(?:should (?:we|a|an|the|i) .{0,80}\b(?:or|early|now)\b|differential|defend a position|case for)\b",
        r"\bthink (?:this|it) (?:\w+ )?through\b|\b(?:pensarlo|durchdenken|y réfléchir)\b",
        r"\b(?:analysier\w*|bewerte|beurteil\w*|prüfe|gutacht\w*|wäg\w* .{0,40}ab|vergleiche die)\b",
        r"\b(?:analyse[rz]?|[ée]valuez?|analiza|analice|eval[úu]a|razona|analizza|valuta|analise|avalie|weeg)\b",
        r"\b(?:analysera|väg de|przeanalizuj|oceń|analiz et)\b|\bпроанализ|\bоцени",
        r"分析|评估|評価|綜合|综合|検討|精査|분석|평가|विश्लेषण|حل[ّ]?ل",
    ),
    _marker(
        "weighing",
        2,
        r"\b(?:evidence|hypothes[ie]s|assumptions?|scenarios?|risks?|sensitivity|consequences|confounders?|biases)\b",
        r"\b(?:objections?|competing|conflicts?|contradict\w*|counter-?arguments?|causal)\b",
        r"\b(?:risiken|szenari\w+|gegenargument\w*|annahmen|widersprech\w*|risques|sc[ée]narios?|riesgos|escenarios)\b",
        r"\b(?:rischi|scenari|riscos|cen[áa]rios|argumenten|bezwaren|riskler|senaryo\w*|ryzyk\w*)\b",
        r"\bриск|\bсценари|风险|矛盾|政策|リスク|विकल्प|مخاطر|افتراضات|위험",
    ),
    _marker(
        "reasons",
        2,
        r"\b(?:justif\w+|argue|rationale|give the reduction|explain the (?:difference|trade)|why there is no"
        r"|critically)\b",
        r"\b(?:begründ\w*|justifi\w+|motivat[ae]|gerekçe\w*|fundamentad\w+|uzasadnij)\b|\bобоснуй|理由|根拠|तर्क",
    ),
    _marker(
        "recommendation",
        2,
        r"\b(?:recommend\w*|propose|decision rule|policy|strateg\w+|milestones?|mitigations?)\b",
        r"\b(?:empf[ei]hl\w*|schlag\w* .{0,60}vor|proposez|recomiend\w+|propon\w*|recomend\w+|öneri|föreslå)\b",
        r"建议|提案|推荐|추천|أوص",
    ),
    _marker(
        "plan",
        3,
        r"\b(?:plan|schedule|itinerary|curriculum|roadmap|allocate|organi[sz]e|study to test|timetable)\b",
        r"\b(?:dienstplan|zeitplan|planifi\w+|organi[sz][ae]\w*|planea|pianifica|planeje|zaplanuj|programme pour)\b",
        r"\bспланируй|计划|規劃|計画|계획",
    ),
    _marker(
        "constraints",
        2,
        r"\b(?:budget|constraints?|fallback|rollback|critical path|must (?:be|fit|not)|no one|at least one|limits?)\b",
        r"\b(?:ruhezeiten|mindestens|presupuesto|or[çc]amento|plans? de secours|idempot\w+|tol[ée]ran\w+)\b|预算|予算",
    ),
)

# Work of a page or less: of the kinds that are found the first counts, for they are other words for one task.
ONE_PAGE = (
    _marker(
        "explanation",
        3,
        r"\b(?:explain|describe|why|walk me through|how does|how do .{2,40} work|compar\w+|differences?"
        r"|pros and cons)\b",
        r"\b(?:vs\.?|versus|how (?:should|can|would) i|is it worth|worth it|what rights|advantages"
        r"|in your own words|teach me)\b",
        r"\b(?:erklär\w*|warum|wieso|unterschied\w*|vergleich\w*|vor- und nachteile|beschreib\w*)\b",
        r"\b(?:expli(?:que|quer|quez|ca|car|cami)|pourquoi|diff[ée]rences?|compare[rz]?|diferencia|por qu[ée])\b",
        r"\b(?:spiega\w*|perch[ée]|differenza|leg uit|verschil|vantagens|vale (?:mais )?a pena|diferenças?"
        r"|wyjaśnij|różni\w*|açıkla)\b",
        r"\b(?:förklara|skillnad\w*)\b|\bобъясни|\bпочему|\bчем отлича",
        r"解释|解釋|说明|为什么|区别|説明|なぜ|違い|설명|차이",
        r"اشرح|لماذا|समझा|क्यों",
    ),
    _marker(
        "text to write",
        3,
        r"\b(?:write|draft|compose|tell|make|outline|prepare|list)\b.{0,60}\b(?:e-?mail|letter|story|poem|sonnet|essay"
        r"|speech|toast|article|post|review|description|dialogue|quiz|lesson|questions|reply|cover|report|script)\b",
        r"\b(?:brainstorm|recipe for|slogan ideas|give me (?:ten|eight|a .{3,30} recipe))\b",
        r"\b(?:schreib\w*|verfass\w*)\b.{0,60}\b(?:e-?mail|brief|mahnung|text|rede|gedicht|geschichte|absatz)\b",
        r"\b(?:mail|brief|nachricht) an\b|\b(?:un mail|un correo|una mail|um e-?mail) (?:à|a|para|al)\b",
        r"\br[ée]dige[rz]?\b|\b[ée]cri[srv]\w* (?:un|une)\b|\bescribe (?:un|una)\b|\bscriv\w+ (?:un|una|il)\b",
        r"\b(?:redija|escreva) (?:um|uma)\b|\bschrijf (?:een)\b|\bnapisz\b|\bнапиши\b|\byaz\b|\bskriv (?:en|ett)\b",
        r"写一|寫一|求职信|メールを書|書いて|써 ?주세요|작성해|लिख|اكتب",
    ),
    _marker(
        "code",
        3,
        r"\b(?:write|implement|create|give me|need|rewrite|convert|fix|debug)\b.{0,60}\b(?:function|query|regex|script"
        r"|class|component|dockerfile|tests?|formula|location block|unit tests|config(?:uration)?)\b",
        r"\b(?:bash|python|shell) script\b|\bexcel formula\b|\bin pandas\b|\btype hints\b|\basync/await\b",
        r"\b(?:funktion|abfrage|funci[óo]n|fonction|funzione|fun[çc][ãa]o)\b.{0,60}\b(?:die|que|qui|che|python"
        r"|javascript)\b",
        r"\bschreibe\b.{0,30}\babfrage\b|写一个函数|用 (?:go|python|java)|関数を|함수",
    ),
    _marker(
        "error",
        3,
        r"\b(?:error|exception|traceback|undefined|null pointer|stack trace|segfault|cannot read|not working"
        r"|crash\w*)\b",
        r"\b(?:fehlermeldung|wirft einen|erreur|errore|erro)\b|\bошибк|报错|エラー|오류",
    ),
    _marker(
        "summary",
        2,
        r"\b(?:summari[sz]e|summary|gist|key (?:points|ideas)|minutes of|according to the|transcript|table of"
        r"|tl;?dr)\b",
        r"\b(?:fasse|zusammenfass\w*|r[ée]sume[rz]?|resum[ea]|riassum\w+|verbale|samenvat\w*|podsumuj|özetle)\b",
        r"\bкратко излож|总结|摘要|要約|요약|لخص",
    ),
    _marker(
        "register",
        3,
        r"\b(?:idiomatic\w*|tone|register|legal terms|rhymes?|formal|ironic|edit this|reads? (?:less|more|better))\b",
        r"\b(?:registro formal|leichte\w* sprache|tonfall|registre|自然な英語|丁寧)\b|自然な|丁寧|语气|формальн",
    ),
    _marker(
        "calculation",
        2,
        r"\b(?:solve|differentiate|calculate|compute|probability|chance that|how (?:much|long|many) .{3,60}\d)\b",
        r"\b(?:when does|cost|interest|discount|per cent|speed|area|volume)\b",
        r"\b(?:wie groß|berechne|fläche|combien de temps|cu[áa]nto tendr[ée]|calcul[ae]|через сколько)\b",
        r"计算|計算|कितना|कितने",
    ),
)

# Work of a moment.
ONE_STEP = (
    _marker(
        "lookup",
        -1,
        r"^\W*(?:what(?:'s| is| does| year| time)|who|when|where|which|in (?:what|which)|is (?:it|a|this|\d)"
        r"|define|do i)\b",
        r"^\W*(?:wie (?:hei(?:ß|ss)t|viele?)|wer|wann|wo|qui|quel(?:le)?|cu[áa]l|cu[áa]nto|qui[ée]n|chi|qual|kto)\b",
        r"^\W*(?:hoeveel|wat is|vilken|сколько|кто|где)\b|是什么|多少|叫什么|何ですか|어디|ما هي|क्या है",
    ),
    _marker(
        "short transformation",
        -1,
        r"\b(?:translate|how do you say|correct the spelling|shorten|title case|synonym|convert|extract"
        r"|sort alpha\w+)\b",
        r"\b(?:positive or negative|yes or no|one sentence|one-liner|plural|command to|classify)\b",
        r"\b(?:übersetze|ordne ein|tradui[st]|traduce|traduci|traduza|tłumacz|översätt)\b|\bпереведи|翻译|訳して|번역",
    ),
    _marker(
        "small talk",
        -3,
        r"^\W*(?:hi|hello|hey|thanks|thank you|good (?:morning|night|evening)|great,? thanks|how are you)\b",
        r"^\W*(?:hallo|guten (?:morgen|tag|abend)|danke|alles klar|coucou|bonjour|salut|merci|hola|gracias|ciao)\b",
        r"^\W*(?:oi|ol[áa]|obrigad[oa]|hoi|bedankt|cześć|привет|спасибо|merhaba|hej)\b|你好|谢谢|おやすみ|こんにちは|안녕",
    ),
)
