"""What the source of one loop says: what a check's `judge_source` is given.

Every fact is a `Fact`: what was read on each way through the code, the way that runs by default first, or nothing and
the reason. What is not known is never a finding: a check asks `fact.wrong(...)`, which answers only where every way is
known and every one of them is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, TypeVar

from vladoctor.places import Hop, Place

if TYPE_CHECKING:
    from vladoctor.profiles import Profile

T = TypeVar("T")


@dataclass(frozen=True)
class Seen(Generic[T]):
    """A value as it was read on one way through the code.

    Attributes:
        place: where it becomes what it is; trail: the way it took.
        when: the condition of this way, as the source has it; empty where there is no other.
    """

    value: T
    place: Place | None = None
    trail: tuple[Hop, ...] = ()
    when: str = ""


@dataclass(frozen=True)
class Fact(Generic[T]):
    """Everything that is known of one thing.

    Attributes:
        seen: one for each way that could be followed, the default first.
        complete: no way is left that could not be followed. False where nothing is known.
        reason: why nothing, or not all, is known.
    """

    seen: tuple[Seen[T], ...] = ()
    complete: bool = False
    reason: str = "the source does not show it"

    @property
    def known(self) -> bool:
        """Whether it was seen, on every way."""
        return bool(self.seen) and self.complete

    @property
    def value(self) -> T | None:
        """The value by default; None where that is not known."""
        return self.seen[0].value if self.seen else None

    @property
    def place(self) -> Place | None:
        return self.seen[0].place if self.seen else None

    @property
    def trail(self) -> tuple[Hop, ...]:
        return self.seen[0].trail if self.seen else ()

    def wrong(self, is_wrong: Callable[[T], bool]) -> Seen[T] | None:
        """The first of what was seen if all of it is wrong and nothing else is possible; else None."""
        return self.seen[0] if self.known and all(is_wrong(one.value) for one in self.seen) else None

    def right(self, is_wrong: Callable[[T], bool]) -> bool:
        """Whether every way is known and none of them wrong."""
        return self.known and not any(is_wrong(one.value) for one in self.seen)


def known(value: T, place: Place | None = None, trail: tuple[Hop, ...] = ()) -> Fact[T]:
    """A fact that holds on every way."""
    return Fact((Seen(value, place, trail),), complete=True, reason="")


@dataclass(frozen=True)
class Resize:
    """A change of size.

    Attributes:
        height, width: None where not known.
        filter: "lanczos3", "bicubic", "bilinear", "area", "nearest"; empty where not known.
        pad: "centre", "left-top", "none"; empty where not known.
    """

    height: int | None = None
    width: int | None = None
    filter: str = ""
    pad: str = "none"
    place: Place | None = None


@dataclass(frozen=True)
class ImageWay:
    """What was done to the frame of one camera until the model was given it.

    Attributes:
        camera: as the environment calls it ("agentview"); empty where not known.
        element: of the dihedral group, relative to the raw frame; None where not known.
        crop_area: share of the frame that centre crops keep; 1 without a crop, None where not known.
        resizes: in order.
        channels: "RGB" or "BGR"; None where not known.
        jpeg: went through JPEG.
        normalised: mean and std were subtracted and divided, or the range was changed, by the loop before a processor
            that does so itself.
        rendered: (height, width) at which the environment renders; None where not known.
        turns, swaps, crops: where `element`, `channels` and `crop_area` were changed, in order.
    """

    camera: str = ""
    element: str | None = None
    crop_area: float | None = 1.0
    resizes: tuple[Resize, ...] = ()
    channels: str | None = "RGB"
    jpeg: bool = False
    normalised: bool = False
    rendered: tuple[int, int] | None = None
    turns: tuple[Hop, ...] = ()
    swaps: tuple[Hop, ...] = ()
    crops: tuple[Hop, ...] = ()


@dataclass(frozen=True)
class ImageSlot:
    """One picture that the model is given: `name` of its slot ("observation/image"; "image" where there is but one)."""

    name: str
    way: Fact[ImageWay]


@dataclass(frozen=True)
class Prompt:
    """The text that the model is given.

    Attributes:
        text: with {instruction} where the task's instruction goes, once for each time; {?} for a part not known.
        lowercase: whether the instruction is lower-cased.
        fixed: the instruction is a literal of the source.
        probe: a single query that nothing executes and no loop repeats.
        by_policy: the policy makes its prompt of it (a server, a processor, `predict_action(image, text)`).
        template: where the literal stands, for an edit.
        filled: of an f-string with one expression, the expression as the source has it.
    """

    text: str
    lowercase: bool = False
    fixed: bool = False
    by_policy: bool = False
    template: Place | None = None
    filled: str = ""


@dataclass(frozen=True)
class Action:
    """What env.step receives of what the policy returned.

    Attributes:
        gripper: (policy's value, executed value) pairs; None where it could not be followed.
        arm: by dimension, (policy's dimension, factor, offset); None where it could not be followed.
        dims: length of the executed vector; None where not known.
        accumulated: the gripper's value is added to a running sum.
        clipped: (low, high) or None.
        steps: what was done to the gripper, as a person would say it: "2g-1, sign, negate".
    """

    gripper: tuple[tuple[float, float], ...] | None = None
    arm: tuple[tuple[int, float, float], ...] | None = None
    dims: int | None = None
    accumulated: bool = False
    clipped: tuple[float, float] | None = None
    steps: str = ""


@dataclass(frozen=True)
class Decode:
    """Action ids decoded by the loop's own code.

    Attributes:
        pairs: (id, normalised value) of sample ids.
        masked: the gripper is left out of un-normalising.
        appended: ids that the loop appends to the prompt's.
        method: "q01_q99", "mean_std", "min_max", "other", or "" where it does not un-normalise.
        unnormalised: where statistics come in.
    """

    pairs: tuple[tuple[int, float], ...] = ()
    masked: bool | None = None
    appended: tuple[int, ...] | None = None
    method: str = ""
    unnormalised: Place | None = None


@dataclass(frozen=True)
class UnnormKey:
    """The key of the statistics.

    Attributes:
        key: None where nothing is given.
        borrowed: a fallback to whatever statistics there are, where the wanted key is absent.
        how: which ones: "the first key of norm_stats", "bridge_orig".
    """

    key: str | None = None
    borrowed: bool = False
    how: str = ""


@dataclass(frozen=True)
class Chunk:
    """Actions that a query returns, and steps after which it is asked again; None where not known."""

    predicted: int | None
    executed: int | None


@dataclass(frozen=True)
class Settle:
    """Steps between reset and the first query.

    Attributes:
        action: executed meanwhile; None where not known.
        constant: where a literal says how many.
    """

    steps: int
    action: tuple[float, ...] | None = None
    constant: Place | None = None


@dataclass(frozen=True)
class Load:
    """A checkpoint or a processor that is loaded.

    Attributes:
        call: "AutoModelForVision2Seq.from_pretrained".
        what: "model", "processor", "state_dict", "torch.load" or "policy".
        checkpoint: id or path; None where not known.
        dtype: "bfloat16", ...; "" where none is given, None where not known.
        given: names of keyword arguments that are given; values: those of them that are constants.
        evaluated: `.eval()` was called on it, or it needs none; None where not known.
    """

    call: str
    what: str
    checkpoint: str | None = None
    dtype: str | None = ""
    given: tuple[str, ...] = ()
    values: Mapping[str, object] = field(default_factory=dict)
    evaluated: bool | None = None
    place: Place | None = None


@dataclass(frozen=True)
class Handler:
    """An except branch within the loop, and what becomes of the episode.

    Attributes:
        effect: "counted" (as a failed episode), "zeros" (an action of zeros is executed), "ignored", "reported" (stored
            or raised apart) or "" where not known.
        around: "query", "step" or "episode": what stands in its try.
    """

    effect: str
    around: str
    caught: str = "Exception"
    place: Place | None = None


@dataclass(frozen=True)
class Workaround:
    """Something that turns a loud error into a silent one.

    Attributes:
        kind: "patched-attention", "permissive-torch-load", "strict-false", "late-gl", "same-camera".
        detail: for the message.
    """

    kind: str
    detail: str = ""
    place: Place | None = None


@dataclass(frozen=True)
class SourceFacts:
    """One evaluation loop, as its source shows it, and the profile of what its checkpoint expects.

    Attributes:
        place: of the call of env.step that executes what the policy answered; of the query where there is no such call.
        kind: "loop"; "policy" (a wrapper of a model: what executes its answers stands elsewhere); "server".
        client: the model is behind a request, which says nothing of what the other end does to pictures.
        files: every file that was followed.
        family, environment, suites: as inferred, empty where not known; environment as profiles name it ("libero",
            "simplerenv"), or "real". suites: those that the loop can run.
        default_suites: those that it runs where no option is given.
        checkpoint: id or path of the model's weights.
        images, prompt: of the query. Of a client they are what is sent.
        action, decode, unnorm_key, chunk: of the answer.
        do_sample, temperature: of the query; do_sample None where not given.
        settle: `steps` 0 where the first query follows the reset at once.
        init_state: "set", "missing", "wiped" (a reset follows), "first" (the same one in every episode).
        horizon: suite -> policy steps, settle steps not counted; "" for all suites.
        policy_reset: whether a policy with a queue is reset at each episode.
        bddl: "path" or "bare" (the task's file name without its folder).
        seed, environment_seed: None where none is set (and the whole loop was followed).
        trials: episodes of a task.
        success: "always" where every episode counts, "never" where none can, "" otherwise.
        crop_option: the option that leaves the centre crop out, and where its default stands.
        by_policy: the policy makes its prompt of what it is given. by_processor: pictures go through a processor of
            transformers.
        robot: of SimplerEnv, "widowx" or "google_robot"; empty where not known.
        ids_at, rendered_at: where the prompt's ids are taken, and where the environment is made.
        training: whether the policy is in train mode.
        loads, handlers, workarounds: in the order of the source.
    """

    place: Place
    profile: Profile
    kind: str = "loop"
    client: bool = False
    files: tuple[str, ...] = ()
    family: str = ""
    environment: str = ""
    suites: tuple[str, ...] = ()
    default_suites: tuple[str, ...] = ()
    checkpoint: Fact[str] = field(default_factory=Fact)
    images: tuple[ImageSlot, ...] = ()
    prompt: Fact[Prompt] = field(default_factory=Fact)
    action: Fact[Action] = field(default_factory=Fact)
    decode: Fact[Decode] = field(default_factory=Fact)
    unnorm_key: Fact[UnnormKey] = field(default_factory=Fact)
    chunk: Fact[Chunk] = field(default_factory=Fact)
    do_sample: Fact[bool | None] = field(default_factory=Fact)
    temperature: Fact[float | None] = field(default_factory=Fact)
    settle: Fact[Settle] = field(default_factory=Fact)
    init_state: Fact[str] = field(default_factory=Fact)
    horizon: Fact[Mapping[str, int]] = field(default_factory=Fact)
    policy_reset: Fact[bool] = field(default_factory=Fact)
    bddl: Fact[str] = field(default_factory=Fact)
    seed: Fact[int | None] = field(default_factory=Fact)
    environment_seed: Fact[int | None] = field(default_factory=Fact)
    trials: Fact[int] = field(default_factory=Fact)
    proprio: Fact[tuple[str, ...]] = field(default_factory=Fact)
    success: Fact[str] = field(default_factory=Fact)
    crop_option: Fact[str] = field(default_factory=Fact)
    probe: bool = False
    by_policy: bool = False
    by_processor: bool = False
    robot: str = ""
    ids_at: Fact[bool] = field(default_factory=Fact)
    rendered_at: Fact[bool] = field(default_factory=Fact)
    training: Fact[bool] = field(default_factory=Fact)
    loads: tuple[Load, ...] = ()
    handlers: tuple[Handler, ...] = ()
    workarounds: tuple[Workaround, ...] = ()
