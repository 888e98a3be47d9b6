"""From what a program does to what its loop is: `SourceFacts` for each place where a policy's answer is executed."""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np

from vladoctor.lint import robots, workarounds
from vladoctor.lint.facts import (
    Action,
    Chunk,
    Decode,
    Fact,
    Handler,
    ImageSlot,
    ImageWay,
    Load,
    Prompt,
    Seen,
    Settle,
    SourceFacts,
    UnnormKey,
    known,
)
from vladoctor.lint.families import BASE_KEYS
from vladoctor.lint.interpret import Event, Interpreter, Loop
from vladoctor.lint.sources import SourceFile
from vladoctor.lint.values import (
    WORLDS,
    Const,
    Ext,
    Hole,
    Image,
    List,
    Num,
    Text,
    Thing,
    Tup,
    Unknown,
    Value,
    When,
    alternatives,
    numbers,
    options,
    plain,
    taints,
    text_of,
)
from vladoctor.places import Hop, Place
from vladoctor.profiles import Profile
from vladoctor.profiles.files import load_profile
from vladoctor.profiles.find import find_profile

T = TypeVar("T")

OPPOSITE = {"<": ">=", "<=": ">", ">": "<=", ">=": "<"}
"""What holds of a counter and a bound where a comparison does not."""

SPECIAL = 29871
"""Llama's token for a space in front of nothing, which `predict_action` appends."""


def loops(interp: Interpreter) -> list[SourceFacts]:
    """Every loop, policy or server that an entry point showed."""
    events = interp.events
    queries = [event for event in events if event.kind == "query"]
    asked_in = {id(loop.node) for query in queries for loop in query.loops}
    steps = [event for event in events if event.kind == "step" and _driven(event, asked_in)]
    found: list[SourceFacts] = []
    asked: set[int] = set()
    for group in _grouped(steps):
        mine = _queries_of(group, queries, events)
        if not mine:
            continue
        asked.update(id(query) for query in mine)
        around = {id(loop.node) for step in group for loop in step.loops[-1:]}
        asked.update(id(q) for q in queries if q.loops and id(q.loops[-1].node) in around and not q.data["family"])
        found.append(_Reader(interp, mine, group).facts("loop"))
    done = {(str(q.source.path), q.place.line) for q in queries if id(q) in asked}
    rest = [q for q in queries if id(q) not in asked and (str(q.source.path), q.place.line) not in done]
    for group in _grouped(rest):
        found.append(_Reader(interp, group, []).facts(_kind_without_step(group)))
    return found


def _driven(step: Event, asked_in: set[int]) -> bool:
    """Whether a step executes what a policy answered, be it one that is not known as such."""
    made_of = step.data["deep"]
    if made_of & {"action", "token"}:
        return True
    if not (isinstance(step.data["env"], Thing) and step.data["env"].info.get("raw") and step.loops):
        return False
    if made_of & {"observation", "image"}:
        return True
    if "constant" in made_of:
        return False
    if not any(isinstance(option, Unknown) for _, option in options(step.data["action"])) or _replayed(step):
        return False
    if any(id(loop.node) in asked_in for loop in step.loops[-2:]):
        return True
    return not made_of & {"file"} and any(_asks(loop.node) for loop in step.loops[-2:])


_ASKS = re.compile(r"predict|polic|agent|infer|select_action|get_action|(^|_)act$", re.I)


_COUNTS = frozenset({"range", "trange", "count", "arange"})


def _replayed(step: Event) -> bool:
    """Whether a step executes an item of a sequence that was there before the loop, as a replayed demonstration is.

    Told from the loops' own text: what the action is made of in them, back to what a `for` takes it from.
    """
    call = step.node
    loops = [loop.node for loop in step.loops if loop.source is step.source and _within(call, loop.node)]
    if not isinstance(call, ast.Call) or not loops:
        return False
    made: dict[str, list[ast.expr]] = {}
    taken: dict[str, list[ast.expr]] = {}
    for node in ast.walk(loops[0]):
        if isinstance(node, ast.For | ast.AsyncFor | ast.comprehension):
            counts = any(isinstance(one, ast.Call) and _last(one.func) in _COUNTS for one in ast.walk(node.iter))
            for name in _names(node.target):
                (made if counts else taken).setdefault(name, []).append(node.iter)
        elif isinstance(node, ast.Assign | ast.AnnAssign | ast.AugAssign | ast.NamedExpr) and node.value is not None:
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                for name in _names(target):
                    made.setdefault(name, []).append(node.value)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            for name in _names(node.func.value):  # plan.extend(policy(observation))
                made.setdefault(name, []).extend(node.args)
    found = False
    left: list[ast.expr] = [*call.args[:1], *(keyword.value for keyword in call.keywords if keyword.arg == "action")]
    done: set[str] = set()
    while left:
        expression = left.pop()
        if _asks(expression):
            return False
        for node in ast.walk(expression):
            if isinstance(node, ast.Subscript) and isinstance(node.value, ast.Name):
                found |= node.value.id not in made and node.value.id not in taken
        for name in _names(expression) - done:
            done.add(name)
            found |= name in taken
            left += made.get(name, []) + taken.get(name, [])
    return found


def _within(node: ast.AST, loop: ast.AST) -> bool:
    return any(node is one for one in ast.walk(loop))


def _names(node: ast.AST) -> set[str]:
    return {one.id for one in ast.walk(node) if isinstance(one, ast.Name)}


def _last(func: ast.expr) -> str:
    return func.attr if isinstance(func, ast.Attribute) else func.id if isinstance(func, ast.Name) else ""


def _asks(loop: ast.AST) -> bool:
    """Whether something is called in a loop that is named like a policy or its query."""
    for node in ast.walk(loop):
        if isinstance(node, ast.Call):
            func = node.func
            names = [func.attr] if isinstance(func, ast.Attribute) else []
            inner = func.value if isinstance(func, ast.Attribute) else func
            names += (
                [inner.id] if isinstance(inner, ast.Name) else [inner.attr] if isinstance(inner, ast.Attribute) else []
            )
            if any(_ASKS.search(name) for name in names):
                return True
    return False


def _grouped(events: Iterable[Event]) -> list[list[Event]]:
    groups: dict[tuple[Any, ...], list[Event]] = {}
    for event in events:
        groups.setdefault((str(event.source.path), event.place.line), []).append(event)
    return list(groups.values())


def _queries_of(group: Sequence[Event], queries: Sequence[Event], events: Sequence[Event]) -> list[Event]:
    """The queries whose answers these steps execute; the last one before them where that cannot be followed."""
    found: list[Event] = []
    for step in group:
        for _, option in options(step.data["action"]):
            native = option.native.query if isinstance(option, Num) and option.native is not None else None
            if native is not None and native not in found:
                found.append(native)
    if found:
        places = {(str(q.source.path), q.place.line) for q in found}
        return [q for q in queries if (str(q.source.path), q.place.line) in places]
    order = {id(event): index for index, event in enumerate(events)}
    before = [q for q in queries if order[id(q)] < order[id(group[-1])]]
    sure = any(step.data["deep"] & {"action", "token"} for step in group)
    if not sure:
        shared = group[-1].loops[-1].node if group[-1].loops else None
        before = [q for q in before if q.loops and q.loops[-1].node is shared and q.data["family"]]
    if not before:
        return [_unseen_query(group[0])]
    place = (str(before[-1].source.path), before[-1].place.line)
    return [q for q in before if (str(q.source.path), q.place.line) == place]


def _unseen_query(step: Event) -> Event:
    """The query of a policy that is not known as one: where its answer is executed."""
    data = {
        "owner": Unknown("a policy"), "method": "", "args": (), "kwargs": {}, "asked": robots.Asked(opaque=True),
        "family": "", "where": None,
    }  # fmt: skip
    return Event("query", step.source, step.node, data, step.calls, step.loops, step.conditions, step.tries)


def _kind_without_step(group: Sequence[Event]) -> str:
    text = group[0].source.text
    return (
        "server" if re.search(r"fastapi|flask|uvicorn|websockets\.serve|@app\.(post|route)", text, re.I) else "policy"
    )


class _Reader:
    """Reads the facts of one loop from its events."""

    def __init__(self, interp: Interpreter, queries: list[Event], steps: list[Event]) -> None:
        self.interp = interp
        self.queries = queries
        self.steps = steps
        self.query = queries[0]
        self.events = interp.events
        self.order = {id(event): index for index, event in enumerate(self.events)}
        for query in queries:  # one that was not seen stands where its answer is executed
            self.order.setdefault(id(query), self.order[id(steps[0])] if steps else 0)
        self.texts = {path: file.text for path, file in interp.files.items()}
        self.env = next((s.data["env"] for s in steps if isinstance(s.data.get("env"), Thing)), None)
        self.family = self._family()
        self.environment = self._environment()
        self.suite, self.suites, self.default_suites = self._suites()

    def facts(self, kind: str) -> SourceFacts:
        """All of them."""
        step = self.steps[0] if self.steps else self.query
        checkpoint = self._checkpoint()
        key = self._unnorm_key()
        profile = self._profile(checkpoint, key)
        whole = bool(self.steps)
        return SourceFacts(
            place=self._step_place() if whole else step.place,
            profile=profile,
            kind=kind,
            client=bool(self.query.data.get("client")),
            files=tuple(self.interp.files),
            family=self.family,
            environment=self.environment,
            suites=self.suites,
            default_suites=self.default_suites,
            checkpoint=checkpoint,
            images=self._images(),
            prompt=self._prompt(),
            action=self._action(),
            decode=self._decode(),
            unnorm_key=key,
            chunk=self._chunk(),
            do_sample=self._argument("do_sample"),
            temperature=self._argument("temperature"),
            settle=self._settle() if whole else Fact(),
            init_state=self._init_state() if whole else Fact(),
            horizon=self._horizon() if whole else Fact(),
            policy_reset=self._policy_reset() if whole else Fact(),
            bddl=self._bddl(),
            seed=self._seed(),
            environment_seed=self._environment_seed(),
            trials=self._trials() if whole else Fact(),
            proprio=self._proprio(),
            success=self._success() if whole else Fact(),
            crop_option=self._crop_option(),
            probe=not whole and not any(q.loops for q in self.queries) and not self.query.data.get("whole"),
            by_policy=not any(query.data["asked"].ids for query in self.queries)
            and not self.query.data.get("official"),
            by_processor=any(self._processed(query) for query in self.queries),
            robot=self._robot(),
            ids_at=known(True, self._ids_place()) if self.query.data["asked"].ids else Fact(),
            rendered_at=self._rendered_at(),
            training=self._training(),
            loads=self._loads(),
            handlers=self._handlers(),
            workarounds=workarounds.found(self.interp.files.values()),
        )

    # -- who and where ---------------------------------------------------------------------------------------------

    def _family(self) -> str:
        family = str(self.query.data.get("family", ""))
        if family == "openvla" and any(
            re.search(r"mini-?vla|prism-qwen|openvla-mini", text, re.I) for text in self.texts.values()
        ):
            return "minivla"
        return family

    def _environment(self) -> str:
        kind = self.env.info.get("kind", "") if self.env is not None else ""
        if kind in ("libero", "simplerenv"):
            return str(kind)
        if self.query.data.get("whole"):
            return "libero"
        if kind:
            return ""
        mine = {str(event.source.path) for event in (*self.queries, *self.steps)}
        mine |= {str(source.path) for event in (*self.queries, *self.steps) for source, _ in event.calls}
        texts = "\n".join(text for path, text in self.texts.items() if path in mine)
        if re.search(r"^\s*(from|import)\s+[\w.]*libero", texts, re.M | re.I):
            return "libero"
        if re.search(r"simpler_env|mani_?skill2_real2sim|mani_skill\.envs", texts):
            return "simplerenv"
        return ""

    def _suites(self) -> tuple[str, tuple[str, ...], tuple[str, ...]]:
        """The suite that runs first by default, those that can be run, and all that run by default."""
        default, possible, run = "", [], []
        named = [(event, event.data["value"]) for event in self.events if event.kind == "suite"]
        named += [(event, event.data["suite"]) for event in self.queries if event.data.get("suite") is not None]
        for event, value in named:
            # What stands under a condition that is not known, or behind the first of several choices, may never run.
            certain = all(self.interp.truth(one.value) is one.holds for one in event.conditions)
            for nth, (_, option) in enumerate(options(value)):
                if isinstance(option, Const) and robots.is_suite(option.value):
                    default = default or option.value
                    if certain and not nth:
                        run.append(option.value)
                    possible.append(option.value)
                    if option.origin:
                        possible.extend(name for name in option.choices or robots.SUITES[:5] if robots.is_suite(name))
                elif isinstance(option, Unknown):
                    possible.extend(robots.SUITES[:5])
        return default, tuple(dict.fromkeys(possible)), tuple(dict.fromkeys(run))

    def _checkpoint(self) -> Fact[str]:
        where = self.query.data.get("where")
        return _fact(
            where, lambda v: v.value if isinstance(v, Const) and isinstance(v.value, str) and v.value else None
        )

    def _profile(self, checkpoint: Fact[str], key: Fact[UnnormKey]) -> Profile:
        family, name = self.family, checkpoint.value or ""
        known_as: dict[str, Any] = {"name": name}
        suite = self.suite or ("libero_spatial" if self.environment == "libero" else "")
        if self.environment == "simplerenv":
            suite = "simpler"
        if family.startswith("lerobot"):
            known_as["family_hint"] = family
        elif family == "openpi":
            known_as["family_hint"] = "openpi"
        elif family in ("openvla", "openvla-oft", "openvla.prismatic"):
            known_as["class"] = "OpenVLAForActionPrediction"
            keys = [one.value.key for one in key.seen if one.value.key]
            if self.environment == "libero":
                known_as["norm_stats"] = {k: {} for k in keys if k.startswith("libero")} or {suite: {}}
            elif self.environment == "simplerenv":
                known_as["norm_stats"] = {k: {} for k in keys} or {"bridge_orig": {}}
            if family == "openvla-oft":
                known_as["chunk"] = 8
        elif family == "minivla":
            known_as = {"name": "minivla", "class": ""}
        elif family:
            known_as["class"] = family
        found = find_profile(known_as, suite)
        if not checkpoint.seen and self._serves_several():
            found = replace(
                load_profile("unknown"), reason="the loop runs several families, and the source names no checkpoint"
            )
        if any(event.kind == "adapter" for event in self.events) and family in ("openvla", "openvla-oft"):
            found = replace(load_profile(family), reason="an adapter that this project trained lies on the checkpoint")
        if family.startswith("lerobot.") and not self._published(checkpoint):
            found = replace(
                load_profile("unknown"), reason="weights that this project trained: nothing is known of them"
            )
        if found.name == "unknown" and self.environment == "libero":
            return replace(load_profile("libero"), reason=found.reason)
        return found

    def _serves_several(self) -> bool:
        """Whether an option chooses among families, of which the default is but one."""
        return any(
            isinstance(one.value, Const)
            and one.value.origin
            and one.other
            and not isinstance(one.other[-1], ast.Raise)
            and isinstance(one.node, ast.Compare)
            and re.search(r"family|policy|model", one.source.segment(one.node)) is not None
            for query in self.queries
            for one in query.conditions
        )

    def _published(self, checkpoint: Fact[str]) -> bool:
        """Whether a policy of LeRobot is a published one: slots named as theirs, and nothing loaded into it."""
        slots = {name for query in self.queries for name, _ in query.data["asked"].images}
        ours = {"observation.images.image", "observation.images.image2", "observation.image", "observation.image2"}
        named = {name for name in slots if name.startswith("observation.")}
        loaded = any(event.kind == "load" and event.data["what"] == "state_dict" for event in self.events)
        return not (named - ours) and not loaded

    @staticmethod
    def _processed(query: Event) -> bool:
        pixels = query.data["kwargs"].get("pixel_values")
        return isinstance(pixels, Thing) and bool(pixels.info.get("processed"))

    def _robot(self) -> str:
        for event in self.events:
            if event.kind == "env":
                name = plain(event.data.get("task") or Const(None))
                text = f"{name or ''} {event.source.text if self.environment == 'simplerenv' else ''}"
                for robot in ("widowx", "google_robot"):
                    if isinstance(name, str) and robot in name:
                        return robot
                if isinstance(name, str) and re.search(
                    r"(Carrot|Spoon|Cube|Eggplant).*(Plate|TableCloth|Basket|Cube).*Scene", name
                ):
                    return "widowx"
                del text
        return ""

    def _rendered_at(self) -> Fact[bool]:
        envs = [event for event in self.events if event.kind == "env"]
        return known(True, envs[0].place) if envs else Fact()

    def _training(self) -> Fact[bool]:
        changes = [event for event in self.events if event.kind in ("train", "eval") and self._before_query(event)]
        if not changes:
            return Fact()
        last = changes[-1]
        return known(last.kind == "train" and last.data.get("on") is not False, last.place)

    def _before_query(self, event: Event) -> bool:
        return self.order[id(event)] < self.order[id(self.queries[-1])]

    # -- what the policy is given ----------------------------------------------------------------------------------

    def _images(self) -> tuple[ImageSlot, ...]:
        slots: dict[str, list[Value]] = {}
        opaque = False
        for query in self.queries:
            asked = query.data["asked"]
            opaque = opaque or (asked.opaque and not asked.images)
            crop = query.data.get("crop")
            for position, (name, value) in enumerate(asked.images):
                named = "image" if name.startswith(("#", "pixel_values")) and not position else name
                slots.setdefault(named, []).append(self._cropped_later(value, crop))
            if query.data.get("official") and not asked.images and crop is not None:
                unseen = Image(ImageWay("", None))
                slots.setdefault("image", []).append(self._cropped_later(unseen, crop))
        return tuple(ImageSlot(name, self._image_fact(values)) for name, values in slots.items())

    def _cropped_later(self, value: Value, crop: Value | None) -> Value:
        """The picture after the crop that OpenVLA's own code makes if its configuration says so."""
        if crop is None or not isinstance(value, Image):
            return value
        hop = Hop(f"center_crop={plain(crop)}", crop.place if isinstance(crop, Const) else None)
        area = {True: 0.9, False: 1.0}.get(plain(crop)) if isinstance(crop, Const) else None
        way = replace(value.way, crop_area=area, crops=(*value.way.crops, hop))
        return replace(value, way=way, trail=(*value.trail, hop))

    def _image_fact(self, values: Sequence[Value]) -> Fact[ImageWay]:
        def way(value: Value) -> ImageWay | None:
            return value.way if isinstance(value, Image) else None

        def place(value: Value) -> tuple[Place | None, tuple[Hop, ...]]:
            if not isinstance(value, Image):
                return None, ()
            turns = value.way.turns
            at = turns[-1].place if turns else _last_place(value.trail) or self.query.place
            return at, (*value.trail, Hop("the policy", self.query.place))

        return _fact_of(values, way, place)

    def _prompt(self) -> Fact[Prompt]:
        values: list[Value] = []
        for query in self.queries:
            asked = query.data["asked"]
            chosen = self._chosen_text(asked.texts)
            if chosen is not None:
                values.append(chosen)
        if not values:
            return Fact(reason="no text was seen that the policy is given")
        by_policy = not any(query.data["asked"].ids for query in self.queries)
        official = any(query.data.get("official") for query in self.queries)

        def prompt(value: Value) -> Prompt | None:
            text = text_of(value)
            if text is None or official or (isinstance(value, Const) and not isinstance(value.value, str)):
                return None
            lower = all(hole.lower or hole.clean for hole in text.holes if hole.kind == "instruction")
            shown = "".join(part if isinstance(part, str) else _hole(part) for part in text.parts)
            return Prompt(shown, lower, not text.holes, by_policy, text.place, text.filled)

        def place(value: Value) -> tuple[Place | None, tuple[Hop, ...]]:
            text = text_of(value)
            if text is None:
                return None, ()
            at = text.place or _last_place(text.trail)
            return at or self.query.place, (*text.trail, Hop("the policy", self.query.place))

        return _fact_of(values, prompt, place)

    @staticmethod
    def _chosen_text(texts: Sequence[tuple[str, Value]]) -> Value | None:
        """The text that is the prompt: the one with the instruction, else the only one."""
        with_instruction = [value for _, value in texts if "instruction" in taints(value)]
        return next(iter(with_instruction or [value for _, value in texts]), None)

    def _proprio(self) -> Fact[tuple[str, ...]]:
        for query in self.queries:
            for name, value in query.data["asked"].states:
                state = np.squeeze(np.asarray(value.samples[0], dtype=float)) if isinstance(value, Num) else np.zeros(0)
                if isinstance(value, Num) and state.ndim == 1 and len(state) > 3:
                    found = _state_names(state)
                    if found is not None:
                        return known(found, value.place or query.place, (Hop(name, query.place),))
        return Fact(reason="the state that the policy is given was not followed")

    # -- what becomes of the answer --------------------------------------------------------------------------------

    def _action(self) -> Fact[Action]:
        accumulated = self._accumulated()
        values = [step.data["action"] for step in self.steps]
        if self._waits(self._step_loop()) is not None:
            values = [alternatives(self._answers(value)) for value in values]
        place = self._step_place()
        if accumulated is not None:
            return known(Action(accumulated=True), accumulated.place, (Hop("the policy's answer", self.query.place),))
        if not values:
            return Fact(reason="what executes the answer stands elsewhere")

        def action(value: Value) -> Action | None:
            return _action_of(self.interp, value)

        def where(value: Value) -> tuple[Place | None, tuple[Hop, ...]]:
            number = _vector(self.interp, value)
            trail = number.trail if number is not None else ()
            return place, (*trail, Hop("env.step", place))

        return _fact_of(values, action, where)

    def _answers(self, value: Value) -> list[tuple[When, Value]]:
        """What env.step is given without the constant actions that the same call executes while nobody asks."""
        asked = [(when, one) for when, one in options(value) if _constant_action(self.interp, one) is None]
        return asked or list(options(value))

    def _step_place(self) -> Place:
        """Where the answer is executed: the call of env.step, or of the helper around it that others use too."""
        if not self.steps:
            return self.query.place
        step = self.steps[0]
        shared = any(
            event.kind == "step" and event.node is step.node and event not in self.steps for event in self.events
        )
        return step.calls[-1][0].place(step.calls[-1][1]) if shared and step.calls else step.place

    def _accumulated(self) -> Event | None:
        """Where the gripper's value is added to a running sum."""
        for event in self.events:
            if event.kind == "accumulate" and event.data["op"] == "Add":
                value = event.data["value"]
                for _, option in options(value):
                    if isinstance(option, Num) and option.native is not None and _only_gripper(option):
                        return event
        return None

    def _decode(self) -> Fact[Decode]:
        appended = self._appended()
        for step in self.steps:
            number = _vector(self.interp, step.data["action"])
            if number is not None and number.origin == "token" and number.native is not None:
                found = _decoded(number)
                first = next((hop.place for hop in number.trail if hop.place), step.place)
                return known(replace(found, appended=appended), first, number.trail)
        if appended is not None:
            return known(Decode(appended=appended), self._ids_place())
        return Fact(reason="the loop leaves decoding to the model")

    def _appended(self) -> tuple[int, ...] | None:
        """Ids that the loop appends itself, where it is the loop's business."""
        if any(query.data["method"] in ("forward", "generate") for query in self.queries):
            ids = self.queries[0].data["asked"].ids
            return tuple(ids[0].info.get("appended", ())) if ids else None
        return None

    def _ids_place(self) -> Place:
        ids = self.queries[0].data["asked"].ids
        return (ids[0].info.get("at") if ids else None) or self.query.place

    def _unnorm_key(self) -> Fact[UnnormKey]:
        values: list[Value] = []
        for query in self.queries:
            given = query.data["kwargs"].get("unnorm_key")
            if given is not None:
                values.append(given)
        borrowed = self._borrowed()
        if borrowed is not None:
            return borrowed
        if not values:
            accesses = [event for event in self._before_step("statistics") if event.data["key"] is not None]
            values = [event.data["key"] for event in accesses]
            if not values:
                if (
                    self.query.data["method"] == "predict_action"
                    and self.family
                    and "**" not in self.query.data["kwargs"]
                ):
                    return known(UnnormKey(None), self.query.place)
                return Fact(reason="no key of statistics was seen")

        def key(value: Value) -> UnnormKey | None:
            if isinstance(value, Const):
                return UnnormKey(value.value if isinstance(value.value, str) else None)
            if isinstance(value, Thing) and value.kind == "key":
                return UnnormKey(None, borrowed=True, how="the first key of norm_stats")
            return None

        def place(value: Value) -> tuple[Place | None, tuple[Hop, ...]]:
            at = value.info.get("at") if isinstance(value, Thing) else value.place if isinstance(value, Const) else None
            named = repr(plain(value)) if isinstance(value, Const) else "the key"
            return at or self.query.place, (Hop(named, at), Hop("the policy", self.query.place))

        return _fact_of(values, key, place)

    def _borrowed(self) -> Fact[UnnormKey] | None:
        """A fallback to statistics that are not the wanted ones."""
        accesses = self._before_step("statistics")
        wanted = [event for event in accesses if not _stand_in(event.data["key"], self.environment)]
        for event in accesses:
            stand_in = _stand_in(event.data["key"], self.environment)
            conditional = any(_asks_for_none(c.node) for c in event.conditions[-2:])
            if (
                stand_in
                and (wanted or stand_in == "the first key of norm_stats")
                and (conditional or event.data["got"])
            ):
                return known(UnnormKey(None, borrowed=True, how=stand_in), event.place)
        return None

    def _before_step(self, kind: str) -> list[Event]:
        return [event for event in self.events if event.kind == kind]

    def _chunk(self) -> Fact[Chunk]:
        for step in self.steps:
            number = _vector(self.interp, step.data["action"])
            if number is not None and number.rows is not None:
                predicted, executed = number.rows
                if executed == 1 and not self._asked_each_step(step):
                    executed = None
                return known(Chunk(predicted, executed), step.place)
        return Fact(reason="no chunk of actions was followed")

    def _asked_each_step(self, step: Event) -> bool:
        """Whether the query stands in the step's own loop, under no further condition."""
        return (
            bool(step.loops)
            and bool(self.query.loops)
            and step.loops[-1].node is self.query.loops[-1].node
            and len(self.query.conditions) <= len(step.conditions)
        )

    def _argument(self, name: str) -> Fact[Any]:
        given = [query.data["kwargs"].get(name) for query in self.queries]
        if all(value is None for value in given):
            return known(None, self.query.place) if "**" not in self.query.data["kwargs"] else Fact()
        return _fact_of(
            [value for value in given if value is not None],
            lambda v: v.value if isinstance(v, Const) else None,
            lambda v: ((v.place if isinstance(v, Const) else None) or self.query.place, ()),
        )

    # -- the protocol ----------------------------------------------------------------------------------------------

    @property
    def _raw(self) -> bool:
        return self.env is not None and bool(self.env.info.get("raw"))

    def _of_env(self, kind: str) -> list[Event]:
        """Events of the environment before the step, in order."""
        last = max((self.order[id(step)] for step in self.steps), default=len(self.events))
        return [
            event
            for event in self.events
            if event.kind == kind and self._is_env(event.data.get("env")) and self.order[id(event)] <= last
        ]

    def _is_env(self, env: Any) -> bool:
        if not isinstance(env, Thing) or self.env is None:
            return False
        return env.id == self.env.id or not env.id or not self.env.id

    def _escaped(self) -> bool:
        return bool(self._of_env("escape"))

    def _settle(self) -> Fact[Settle]:
        if not self._raw and self.environment != "libero":
            return Fact(reason="what the environment does by itself is not known")
        resets = self._of_env("reset")
        if resets and all(self.order[id(query)] < self.order[id(resets[-1])] for query in self.queries):
            shared = {id(loop.node) for loop in resets[-1].loops} & {id(x.node) for q in self.queries for x in q.loops}
            if not shared:
                return Fact(reason="the policy is asked before the reset, and not behind it")
        first = min(self.order[id(query)] for query in self.queries)
        step = self.steps[0]
        inner = self._step_loop()
        total, action, place = 0, None, None
        others = [
            event
            for event in self._of_env("step")
            if event not in self.steps and self._position(event) != self._position(step)
        ]
        seen: set[Any] = set()
        bound: Place | None = None
        for event in others:
            if self._position(event) in seen:
                continue
            seen.add(self._position(event))
            if self.order[id(event)] > first and not self._shares_loop(event, inner):
                continue
            counted = self._repetitions(event, inner)
            count = None if counted is None else counted[0]
            bound = None if counted is None else counted[1]
            if count is None:
                return Fact(reason="how many settle steps there are is not known")
            total += count
            place = event.place
            action = action or _constant_action(self.interp, event.data["action"])
        if total or seen:
            return known(Settle(total, action, bound), bound or place)
        if (waited := self._waits(inner)) is not None:
            return waited
        if not self._raw or self._escaped() or not self._of_env("reset"):
            return Fact(reason="what happens between reset and the first query was not followed")
        if any(
            event.kind == "step" and event not in self.steps for event in self.events if self.order[id(event)] < first
        ):
            return Fact(reason="another step precedes the first query")
        return known(Settle(0), inner.source.place(inner.node) if inner is not None else step.place)

    def _waits(self, inner: Loop | None) -> Fact[Settle] | None:
        """`action = REST if t < 10 else policy(obs)`: one env.step for both, and the policy asked from a step on."""
        if not self.steps or not self._shares_loop(self.query, inner):
            return None
        step = self.steps[0]
        for condition in self.query.conditions:
            if any(condition.node is other.node for other in step.conditions):
                continue
            limits = condition.value.limits if isinstance(condition.value, Unknown) else ()
            for limit in limits:
                op = limit.op if condition.holds else OPPOSITE.get(limit.op, "")
                if op not in (">=", ">"):
                    continue
                bound = plain(limit.bound)
                if not isinstance(bound, int | float):
                    return Fact(reason="how many settle steps there are is not known")
                constants = (_constant_action(self.interp, one) for _, one in options(step.data["action"]))
                rest = next((one for one in constants if one is not None), None)
                place = _place_of(limit.bound)
                steps = int(bound - limit.counter.start) + (op == ">")
                return known(Settle(steps, rest, place), place or condition.source.place(condition.node))
        return None

    def _position(self, event: Event) -> tuple[Any, ...]:
        """Where an event happens, the calls that lead there included."""
        nodes = (*event.calls, (event.source, event.node))
        return tuple((str(s.path), getattr(n, "lineno", 0), getattr(n, "col_offset", 0)) for s, n in nodes)

    def _shares_loop(self, event: Event, inner: Loop | None) -> bool:
        return inner is not None and any(loop.node is inner.node for loop in event.loops)

    def _repetitions(self, event: Event, inner: Loop | None) -> tuple[int, Place | None] | None:
        """How often a step without the policy is executed before the first query, and where that is said."""
        mine = self.steps[0].loops
        own = [loop for loop in event.loops if not any(loop.node is other.node for other in mine)]
        if own:
            loop = own[-1]
            count = plain(loop.count) if loop.count is not None else None
            left = self._left_after(loop)
            if isinstance(count, int):
                return (min(count, left) if left is not None else count), _place_of(loop.count)
            for limit in loop.limits:
                bound = plain(limit.bound)
                if limit.op in ("<", "<=") and isinstance(bound, int | float):
                    return int(bound - limit.counter.start) + (limit.op == "<="), _place_of(limit.bound)
            return None
        if not self._shares_loop(event, inner):
            return 1, None
        for condition in reversed(event.conditions):
            limits = condition.value.limits if isinstance(condition.value, Unknown) else ()
            for limit in limits:
                bound = plain(limit.bound)
                op = limit.op if condition.holds else OPPOSITE.get(limit.op, "")
                if op in ("<", "<=") and isinstance(bound, int | float):
                    return int(bound - limit.counter.start) + (op == "<="), _place_of(limit.bound)
        return None

    def _left_after(self, loop: Loop) -> int | None:
        """After how many iterations a counter ends a loop; None where none does."""
        found = []
        for event in self.events:
            if event.kind == "limit" and event.loops and event.loops[-1].node is loop.node:
                for limit in event.data["limits"]:
                    bound = plain(limit.bound)
                    if limit.op in (">", ">=", "==") and isinstance(bound, int | float):
                        found.append(int(bound - limit.counter.start) + 1 + (limit.op == ">"))
        return min(found) if found else None

    def _step_loop(self, step: Event | None = None) -> Loop | None:
        """The loop over control steps: the innermost one with both the query and the step."""
        if not self.steps:
            return None
        queried = [loop.node for loop in self.query.loops]
        shared = [loop for loop in (step or self.steps[0]).loops if loop.node in queried]
        return shared[-1] if shared else None

    def _init_state(self) -> Fact[str]:
        if self.environment != "libero" or not self._raw:
            return Fact(reason="the environment's protocol is not known")
        sets, resets = self._of_env("init_state"), self._of_env("reset")
        if not sets:
            if self._escaped() or not resets:
                return Fact(reason="the environment was given to something that was not followed")
            return known("missing", resets[-1].place)
        last = max(self.order[id(event)] for event in sets)
        wiping = [event for event in resets if self.order[id(event)] > last]
        unique = {self._position(event): event for event in wiping}
        again = {self._position(event) for event in resets if self.order[id(event)] < last}
        wiping = [event for position, event in unique.items() if position not in again]
        if wiping:
            way = (Hop("set_init_state", sets[-1].place), *(Hop("reset", event.place) for event in wiping))
            return Fact(tuple(Seen("wiped", event.place, way) for event in wiping), complete=True, reason="")
        value = sets[-1].data["value"]
        index = value.info.get("index") if isinstance(value, Thing) else None
        if isinstance(index, Const) and not index.origin and self._several_episodes_of_a_task():
            return known("first", value.info["at"] if isinstance(value, Thing) else None)
        return known("set", sets[-1].place)

    def _several_episodes_of_a_task(self) -> bool:
        """Whether the innermost loop around an episode goes through episodes, and not through tasks."""
        loop = self._episode_loop()
        if loop is None or plain(loop.count or Const(None)) == 1:
            return False
        per_task = [event for event in self.events if event.kind in ("env", "task")]
        return not any(event.loops and event.loops[-1].node is loop.node for event in per_task)

    def _success(self) -> Fact[str]:
        counted = [event for event in self.events if event.kind == "success"]
        never = [event for event in counted if event.data["never"]]
        others = {event.data["name"] for event in counted if not event.data["never"]}
        if never and self._raw and never[0].data["name"] not in others:
            value = never[0].data["value"]
            return known("never", value.place or never[0].place)
        always = next((event for event in self.events if event.kind == "always"), None)
        return (
            known("always", always.place) if always is not None else Fact(reason="how success is counted is not known")
        )

    def _crop_option(self) -> Fact[str]:
        for event in self.events:
            if event.kind == "decided" and not event.data["value"].value:
                value, asked = event.data["value"], event.data["asked"]
                if "crop" in value.origin.lower() or "crop" in asked.lower():
                    return known(value.origin or asked, value.place or event.place)
        return Fact(reason="no option leaves a crop out")

    def _horizon(self) -> Fact[Mapping[str, int]]:
        """Where an episode ends; of suites that are gone through one after the other, for each of them."""
        by_suite: dict[str, Event] = {}
        for step in self.steps:
            by_suite.setdefault(self._suite_at(step), step)
        if len(by_suite) < 2 or "" in by_suite:
            return self._horizon_of(self.steps[0])
        found = {suite: self._horizon_of(step) for suite, step in by_suite.items()}
        first = next(iter(found.values()))
        if not all(one.known for one in found.values()):
            return next(one for one in found.values() if not one.known)
        table = {suite: (one.value or {}).get(suite, (one.value or {}).get("", 0)) for suite, one in found.items()}
        return known(table, first.place, first.trail) if all(table.values()) else Fact(reason="not every suite's end")

    def _suite_at(self, step: Event) -> str:
        """The suite that runs when a step is executed, where the source names it; empty where it does not."""
        before = [e for e in self.events if e.kind == "suite" and self.order[id(e)] < self.order[id(step)]]
        value = before[-1].data["value"] if before else None
        return value.value if isinstance(value, Const) and robots.is_suite(value.value) and not value.origin else ""

    def _horizon_of(self, step: Event) -> Fact[Mapping[str, int]]:
        inner = self._step_loop(step)
        if inner is None:
            return Fact(reason="the loop over steps was not found")
        bounds: list[tuple[Value, int, Event | None]] = []
        if inner.count is not None:
            bounds.append((inner.count, 0, None))
        for limit in inner.limits:
            if limit.op in ("<", "<="):
                bounds.append((limit.bound, int(limit.op == "<=") - int(limit.counter.start), None))
        for event in self.events:
            if event.kind == "limit" and any(loop.node is inner.node for loop in event.loops):
                for limit in event.data["limits"]:
                    if limit.op in (">=", ">", "=="):
                        bounds.append((limit.bound, int(limit.op == ">") - int(limit.counter.start), event))
        if not bounds:
            return Fact(reason="where an episode ends was not found")
        settle = self._settle()
        counted = settle.value.steps if settle.value is not None and self._settles_inside(inner) else 0
        if settle.value is None and self.environment == "libero" and self._raw:
            return Fact(reason="how many of the steps are settle steps is not known")
        best: Fact[Mapping[str, int]] | None = None
        for bound, shift, _ in bounds:
            found = self._by_suite(bound, shift - counted, inner)
            if found is not None and (best is None or _least(found) < _least(best)):
                best = found
        return best or Fact(reason="the number of steps is not known")

    def _settles_inside(self, inner: Loop) -> bool:
        return self._waits(inner) is not None or any(
            event not in self.steps and event.loops and event.loops[-1].node is inner.node
            for event in self._of_env("step")
        )

    def _by_suite(self, bound: Value, shift: int, inner: Loop) -> Fact[Mapping[str, int]] | None:
        table: dict[str, int] = {}
        place: Place | None = None
        for when, option in options(bound):
            number = plain(option)
            if not isinstance(number, int | float) or isinstance(number, bool):
                if isinstance(option, Const) and number is None:
                    continue
                return None
            suite = dict(when).get("suite", "")
            if suite == "" and len(options(bound)) > 1 and "suite" not in {k for w, _ in options(bound) for k, _ in w}:
                return None
            # A limit that is an option goes with the suite that is one as well: only the defaults belong together.
            alone = len(self.suites) == 1 or (isinstance(option, Const) and bool(option.origin) and bool(self.suite))
            table.setdefault(suite or (self.suite if alone else ""), int(number) + shift)
            place = place or (option.place if isinstance(option, Const) else None)
        if not table:
            return None
        loop_place = inner.source.place(inner.node)
        return known(table, place or loop_place, (Hop("the loop over steps", loop_place),))

    def _policy_reset(self) -> Fact[bool]:
        outlived = self._outlived_plan()
        if outlived is not None:
            return known(False, outlived)
        if self.query.data["method"] not in ("select_action",):
            return Fact(reason="the policy keeps no queue that is known")
        resets = [event for event in self.events if event.kind == "policy_reset"]
        if resets:
            return known(True, resets[0].place)
        episodes = self._episode_loop()
        around = [loop for loop in self.steps[0].loops if loop is not self._step_loop()] if self.steps else []
        if episodes is None or all(plain(loop.count or Const(None)) == 1 for loop in around):
            return Fact(reason="a single episode is run")
        envs = self._of_env("reset")
        return known(False, envs[-1].place if envs else episodes.source.place(episodes.node))

    def _outlived_plan(self) -> Place | None:
        """Where an episode begins with what an older one left in its plan; None where that is not so."""
        episodes = self._episode_loop()
        takes = [event for event in self.events if event.kind == "take" and event.data["made"] is not None]
        for event in takes:
            made: tuple[Loop, ...] = event.data["made"]
            if episodes is None or any(loop.node is episodes.node for loop in made):
                continue
            emptied = any(other.kind == "emptied" and other.data["id"] == event.data["id"] for other in self.events)
            resets = self._of_env("reset")
            if not emptied and resets and any(loop.node is episodes.node for loop in event.loops):
                return resets[-1].place
        return None

    def _episode_loop(self) -> Loop | None:
        """The loop over episodes: the innermost one around the loop over steps; None where there is none."""
        inner = self._step_loop()
        outer: Loop | None = None
        for loop in self.steps[0].loops if self.steps else ():
            if inner is not None and loop.node is inner.node:
                return outer
            outer = loop
        return None

    def _trials(self) -> Fact[int]:
        loop = self._episode_loop()
        count = plain(loop.count) if loop is not None and loop.count is not None else None
        if isinstance(count, int) and self._of_env("reset"):
            place = loop.count.place if loop is not None and isinstance(loop.count, Const) else None
            return known(count, place or (loop.source.place(loop.node) if loop is not None else None))
        return Fact(reason="how many episodes are run is not known")

    def _bddl(self) -> Fact[str]:
        for event in self.events:
            value = event.data.get("bddl") if event.kind == "env" else None
            if isinstance(value, Text):
                bare = len(value.parts) == 1 and isinstance(value.parts[0], Hole) and value.parts[0].kind == "bddl_file"
                return known("bare" if bare else "path", event.place, value.trail)
        return Fact(reason="which task file is opened was not seen")

    def _seed(self) -> Fact[int | None]:
        seeds = [event for event in self.events if event.kind == "seed"]
        if seeds:
            value = seeds[0].data["value"]
            return known(plain(value) if isinstance(value, Const) else None, seeds[0].place)
        return Fact(reason="no seed was seen")

    def _environment_seed(self) -> Fact[int | None]:
        seeds = [event for event in self.events if event.kind == "env_seed"]
        if seeds:
            value = seeds[0].data["value"]
            return known(plain(value) if isinstance(value, Const) else None, seeds[0].place)
        if self._raw and not self._escaped() and self._of_env("reset"):
            return known(None, self._of_env("reset")[0].place)
        return Fact(reason="no seed of the environment was seen")

    # -- loading and errors ----------------------------------------------------------------------------------------

    def _loads(self) -> tuple[Load, ...]:
        found: dict[tuple[str, int], Load] = {}
        for event in self.events:
            if event.kind != "load" or event.data.get("official"):
                continue
            kwargs: Mapping[str, Value] = event.data["kwargs"]
            where, place = event.data["where"], event.place
            dtype = kwargs.get("torch_dtype", kwargs.get("dtype"))
            evaluated = event.data.get("evaluated")
            found.setdefault(
                (place.file, place.line),
                Load(
                    call=event.data["call"],
                    what=event.data["what"],
                    checkpoint=plain(where) if isinstance(where, Const) and isinstance(where.value, str) else None,
                    dtype="" if dtype is None else _dtype(dtype),
                    given=tuple(kwargs),
                    values={key: value.value for key, value in kwargs.items() if isinstance(value, Const)},
                    # `from_pretrained` of transformers leaves a model in evaluation mode.
                    evaluated=True if event.data["call"].endswith("from_pretrained") else evaluated,
                    place=place,
                ),
            )
        return tuple(found.values())

    def _within_episodes(self, handler: Event) -> bool:
        """Whether a handler stands in the loops over episodes or steps, so that others follow."""
        mine = [loop.node for loop in self.steps[0].loops] if self.steps else [loop.node for loop in self.query.loops]
        return any(loop.node in mine for loop in handler.loops)

    def _handlers(self) -> tuple[Handler, ...]:
        found: dict[tuple[str, int], Handler] = {}
        for event in self.events:
            if event.kind != "handler":
                continue
            around = event.data["around"]
            inside = {one.kind for one in [*self.queries, *self.steps] if around in one.tries}
            if not inside or not isinstance(event.node, ast.ExceptHandler) or not self._within_episodes(event):
                continue
            what = "query" if inside == {"query"} else "step" if inside == {"step"} else "episode"
            handler = event.node
            effect = _effect(handler)
            if effect == "ignored" and not self._shares_loop(event, self._step_loop()):
                effect = "counted"  # the loop over steps is left
            caught = event.source.segment(handler.type) if handler.type is not None else "everything"
            found.setdefault((str(event.source.path), handler.lineno), Handler(effect, what, caught, event.place))
        return tuple(found.values())


def _hole(hole: Hole) -> str:
    """A hole as people write it."""
    if hole.kind != "instruction":
        return "{?}"
    return f"{{instruction.{hole.case}()}}" if hole.case else "{instruction}"


def _last_place(trail: Sequence[Hop]) -> Place | None:
    return trail[-1].place if trail else None


def _place_of(value: Value | None) -> Place | None:
    return value.place if isinstance(value, Const) else None


# -- helpers -------------------------------------------------------------------------------------------------------


def _fact(value: Value | None, convert: Callable[[Value], T | None]) -> Fact[T]:
    return Fact() if value is None else _fact_of([value], convert, lambda v: (getattr(v, "place", None), ()))


def _fact_of(
    values: Sequence[Value],
    convert: Callable[[Value], T | None],
    place: Callable[[Value], tuple[Place | None, tuple[Hop, ...]]],
) -> Fact[T]:
    """A fact of everything that a value was seen to be."""
    seen: list[Seen[T]] = []
    complete = True
    reason = ""
    for value in values:
        for when, option in options(value):
            found = convert(option)
            if found is None:
                complete = False
                reason = option.why if isinstance(option, Unknown) else "it was not followed"
                continue
            at, trail = place(option)
            if not any(one.value == found for one in seen):
                seen.append(Seen(found, at, trail, _condition(when)))
    return Fact(tuple(seen), complete and bool(seen), reason or ("" if seen else "it was not followed"))


def _condition(when: When) -> str:
    parts = [
        f"{asked} is {answer}" if asked == "suite" else asked if answer == "true" else f"not ({asked})"
        for asked, answer in when
    ]
    return " and ".join(parts)


def _vector(interp: Interpreter, value: Value) -> Num | None:
    """What env.step receives as numbers; of alternatives the first that is known."""
    for _, option in options(value):
        if isinstance(option, Num):
            return option
        content = interp.content(option)
        items = option.items if isinstance(option, Tup) else content.items if isinstance(content, List) else None
        if items:
            first = next((item for item in items if isinstance(item, Num)), None)
            parts = [numbers(item) for item in items]
            if first is not None and all(part is not None for part in parts):
                samples = tuple(
                    np.array([float(np.ravel(part[w])[0]) for part in parts if part is not None]) for w in range(WORLDS)
                )
                natives = [item for item in items if isinstance(item, Num) and item.native is not None]
                longest = max(natives or [first], key=lambda one: len(one.trail))
                return replace(longest, samples=samples)
    return None


def _action_of(interp: Interpreter, value: Value) -> Action | None:
    number = _vector(interp, value)
    if number is None or number.native is None:
        return None
    if number.native.kind == "token":
        return _action_of_tokens(number)
    out = [np.ravel(np.asarray(sample, dtype=float)) for sample in number.samples]
    native = [np.ravel(np.asarray(sample, dtype=float)) for sample in number.native.samples]
    dims = len(out[0])
    if any(len(one) != dims for one in out) or dims not in (7, 8):
        return Action(dims=dims)
    grip = tuple((round(float(n[6]), 6), round(float(o[6]), 6)) for n, o in zip(native, out, strict=True))
    arm = []
    for dim in range(6):
        found = _linear(np.array([o[dim] for o in out]), np.array(native))
        if found is None:
            return Action(gripper=grip, dims=dims)
        arm.append(found)
    return Action(gripper=grip, arm=tuple(arm), dims=dims)


def _action_of_tokens(number: Num) -> Action | None:
    """The gripper's way after the loop decoded ids: what its own decoder makes of one, and what is executed."""
    whole = [np.ravel(np.asarray(sample, dtype=float)) for sample in number.whole or number.samples]
    out = [np.ravel(np.asarray(sample, dtype=float)) for sample in number.samples]
    if any(len(one) != 7 for one in (*out, *whole)):
        return None
    return Action(
        gripper=tuple((round(float(a[6]), 6), round(float(b[6]), 6)) for a, b in zip(whole, out, strict=True)), dims=7
    )


def _linear(values: np.ndarray, native: np.ndarray) -> tuple[int, float, float] | None:
    """(dimension, factor, offset) of what was answered that gives these values; None where none does."""
    for dim in range(native.shape[1]):
        source = native[:, dim]
        spread = float(np.ptp(source))
        if spread == 0:
            continue
        high, low = int(np.argmax(source)), int(np.argmin(source))
        factor = float((values[high] - values[low]) / (source[high] - source[low]))
        offset = float(values[low] - factor * source[low])
        if factor and np.allclose(factor * source + offset, values, atol=1e-6):
            return dim, round(factor, 6), round(offset, 6)
    return None


def _only_gripper(value: Num) -> bool:
    """Whether a number depends on the answer's gripper and on nothing else of it."""
    flat = [np.ravel(np.asarray(one, dtype=float)) for one in value.samples]
    if any(len(one) != 1 for one in flat):
        return False
    row = [float(one[0]) for one in flat]
    return row[0] == row[1] and row[6] == row[7] and len(set(row)) > 2


def _decoded(number: Num) -> Decode:
    """How ids became numbers, told from samples."""
    out = [np.ravel(np.asarray(sample, dtype=float)) for sample in number.whole or number.samples]
    span = robots.HIGH - robots.LOW
    pairs: list[tuple[int, float]] = []
    method, masked = "", None
    if all(len(one) >= 7 for one in out):
        mixed = number.stats is not None
        mean, std = (robots.HIGH + robots.LOW) / 2 + 0.03, span / 5
        candidates = {
            "": [one[:6] for one in out],
            "q01_q99": [2 * (one[:6] - robots.LOW[:6]) / span[:6] - 1 for one in out],
            "mean_std": [(one[:6] - mean[:6]) / std[:6] for one in out],
            "min_max": [2 * (one[:6] - 1.3 * robots.LOW[:6]) / (1.3 * span[:6]) - 1 for one in out],
        }
        for name, values in candidates.items():
            if (name == "") == mixed:
                continue
            if all(np.ptp(one) < 1e-3 for one in values):  # the ids of all dimensions are the same in one world
                method = name
                pairs = [
                    (int(np.ravel(ids)[0]), round(float(one[0]), 5))
                    for ids, one in zip(number.native.samples if number.native else (), values, strict=True)
                ]
                break
        else:
            method = "other"
        if pairs and mixed:
            wanted = np.array([value for _, value in pairs])
            masked = bool(np.allclose([one[6] for one in out], wanted, atol=1e-3))
    return Decode(tuple(pairs), masked, None, method, number.stats)


def _constant_action(interp: Interpreter, value: Value) -> tuple[float, ...] | None:
    content = interp.content(value)
    items = value.items if isinstance(value, Tup) else content.items if isinstance(content, List) else None
    if items is not None:
        found = [plain(item) for item in items]
        return tuple(float(one) for one in found) if all(isinstance(one, int | float) for one in found) else None
    if isinstance(value, Num) and value.uniform:
        return tuple(float(one) for one in np.ravel(np.asarray(value.samples[0])).tolist())
    return None


def _stand_in(key: Value, environment: str) -> str:
    """How a key of statistics stands in for the wanted one; empty where it does not."""
    if isinstance(key, Thing) and key.kind == "key":
        return "the first key of norm_stats"
    if isinstance(key, Const) and isinstance(key.value, str) and environment == "libero":
        return key.value if key.value in BASE_KEYS else ""
    return ""


def _asks_for_none(node: ast.expr) -> bool:
    return any(isinstance(one, ast.Is | ast.IsNot | ast.In | ast.NotIn) for one in ast.walk(node)) or isinstance(
        node, ast.UnaryOp
    )


def _least(fact: Fact[Mapping[str, int]]) -> int:
    return min((fact.value or {"": 0}).values())


def _dtype(value: Value) -> str | None:
    if isinstance(value, Ext):
        return value.name.rpartition(".")[2]
    return value.value if isinstance(value, Const) and isinstance(value.value, str) else None


def _effect(handler: ast.ExceptHandler) -> str:
    """What becomes of an episode whose exception is caught."""
    for node in ast.walk(handler):
        if isinstance(node, ast.Raise):
            return "reported"
        value = node.value if isinstance(node, ast.Assign | ast.Return | ast.AnnAssign) else None
        if value is not None and _zeros(value):
            return "zeros"
    names = {one.id for one in ast.walk(handler) if isinstance(one, ast.Name)}
    names |= {
        str(one.value)
        for one in ast.walk(handler)
        if isinstance(one, ast.Constant) and isinstance(one.value, str) and " " not in one.value
    }
    if any("error" in name.lower() or "fail" in name.lower() or "crash" in name.lower() for name in names - {"logger"}):
        return ""
    last = handler.body[-1]
    if isinstance(last, ast.Break | ast.Return):
        return "counted"
    return "ignored"


def _zeros(node: ast.expr) -> bool:
    for one in ast.walk(node):
        if (
            isinstance(one, ast.Call)
            and isinstance(one.func, ast.Attribute)
            and one.func.attr in ("zeros", "zeros_like")
        ):
            return True
        times = isinstance(one, ast.BinOp) and isinstance(one.op, ast.Mult) and isinstance(one.left, ast.List)
        listed = one.left if times and isinstance(one, ast.BinOp) else one
        items = listed.elts if isinstance(listed, ast.List) and (times or len(listed.elts) >= 6) else None
        if items is not None and all(isinstance(item, ast.Constant) and item.value == 0 for item in items):
            return True
    return False


def _state_names(values: np.ndarray) -> tuple[str, ...] | None:
    """Names of a state's elements, told from their values; None where one fits nothing."""
    quat = robots.STATE["robot0_eef_quat"]
    known_values: dict[str, float] = dict(zip("xyz", robots.STATE["robot0_eef_pos"], strict=True))
    axis = quat[:3] / np.linalg.norm(quat[:3])
    angle = 2 * float(np.arccos(np.clip(quat[3], -1, 1)))
    known_values.update(zip(("ax", "ay", "az"), axis * angle, strict=True))
    known_values.update(zip(("qx", "qy", "qz", "qw"), quat, strict=True))
    known_values.update(zip(("gripper_0", "gripper_1"), robots.STATE["robot0_gripper_qpos"], strict=True))
    x, y, z, w = quat
    roll = float(np.arctan2(2 * (w * x + y * z), 1 - 2 * (x * x + y * y)))
    pitch = float(np.arcsin(np.clip(2 * (w * y - z * x), -1, 1)))
    yaw = float(np.arctan2(2 * (w * z + x * y), 1 - 2 * (y * y + z * z)))
    known_values.update(roll=roll, pitch=pitch, yaw=yaw)
    names = []
    for value in values.tolist():
        name = next((name for name, other in known_values.items() if abs(other - value) < 1e-4), None)
        if name is None:
            if abs(value) < 1e-12:
                name = "0"
            else:
                return None
        names.append(name)
    return tuple(names)


def file_of(files: Mapping[str, SourceFile], path: str) -> SourceFile | None:
    """A file that was followed, by its path."""
    return files.get(path)
