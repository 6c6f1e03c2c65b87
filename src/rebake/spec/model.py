"""The user's file as values. The docstring below each key is its line in the JSON Schema; docs/rebake-yaml.md explains.

What holds inside one value is checked here and in `fields`; what holds between values is in `rules`, which also sees a
file that does not fit this model. Build a `Spec` with `load.parse` or `load.load`, never from parts: only they check
everything.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, StrictBool, Tag

from rebake.release.reference import parse_reference, parse_repository
from rebake.spec.fields import (
    AbsolutePath,
    Closing,
    CounterQuery,
    Cron,
    Day,
    Filled,
    Hostname,
    LabelName,
    LabelValue,
    Listen,
    Moment,
    Name,
    ObjectName,
    Opening,
    Query,
    Selector,
    Text,
    Total,
    UrlPath,
    Variable,
    WebUrl,
    Zone,
    durations,
    mistaken,
    one_of,
    shares,
    sizes,
    thousandths,
    wholes,
)

PLATFORMS = ("local", "docker", "kubernetes")
"""Platforms that this version deploys to; each has a block of settings of its own name."""

OTHER_PLATFORMS = (
    "aws-ec2",
    "aws-ecs",
    "aws-cloudformation",
    "aws-elastic-beanstalk",
    "azure-vm-scale-set",
    "azure-arm",
    "gcp-instance-group",
    "gcp-infrastructure-manager",
    "terraform",
)
"""Platforms of the design that this version cannot deploy to yet."""

BUILDERS = ("python", "node", "files", "static", "dockerfile", "image")

OTHER_BUILDERS = ("machine-image",)
"""Builders of the design that this version does not have yet."""

STRATEGIES = ("all-at-once", "blue-green", "canary", "linear", "shadow")

TAG = "\0"
"""Starts the tags of unions in pydantic's error paths. No YAML key can hold it, so that tags are told from keys."""


class Part(BaseModel):
    """One mapping of the file: frozen, and no unknown key."""

    model_config = ConfigDict(frozen=True, extra="forbid", populate_by_name=False, hide_input_in_errors=True)


Times = Annotated[int, durations("10ms", "1h")]
Count = Annotated[int, wholes(1, 100)]


# --- bake and run ----------------------------------------------------------------------------------------------------


def _known_base(value: Any) -> Any:
    """`host`, `scratch`, `oci:FOLDER`, or an image with its tag or digest."""
    if isinstance(value, str) and value not in ("host", "scratch") and not value.startswith("oci:"):
        try:
            parse_reference(value)
        except ValueError as error:
            problem = f"expected host, scratch, oci:FOLDER or an image: {error}"
            raise mistaken("wrong-reference", "", problem=problem, remedy="write NAME:TAG or NAME@sha256:…") from None
    return value


def _repository(value: Any) -> Any:
    """A registry and a repository, without a tag."""
    if isinstance(value, str):
        try:
            parse_repository(value)
        except ValueError as error:
            raise mistaken("wrong-reference", "", problem=str(error), remedy="write HOST/NAME") from None
        if "/" not in value:
            raise mistaken("wrong-reference", "a repository such as registry.example.com/team/shop")
    return value


class Bake(Part):
    """How the source becomes a release."""

    builder: Annotated[
        Literal["python", "node", "files", "static", "dockerfile", "image"],
        BeforeValidator(
            one_of("builder-not-available", OTHER_BUILDERS, "builder", f"use one of {', '.join(BUILDERS)}")
        ),
    ]
    """What is done with the source: `python` (uv) and `node` (npm) install dependencies, `files` copies it as it is,
    `static` serves it, `dockerfile` builds an image by it; `image` takes the image under base as it is."""
    source: Filled = "."
    """The folder that is baked, relative to this file."""
    exclude: tuple[Filled, ...] = ()
    """Paths and patterns that do not go in, besides those of .dockerignore and .gitignore."""
    base: Annotated[str, Field(pattern=r"^(host|scratch|oci:.+|\S+[:@]\S+)$"), BeforeValidator(_known_base)] = "host"
    """What lies under the release. `host`: this machine's own Python or Node. `scratch`: nothing. An image by its tag
    or digest, such as `python:3.12-slim`: pulled, and recorded by its digest. `oci:FOLDER`: an image that was saved
    there as an OCI layout, relative to this file."""
    repository: Annotated[str, Field(pattern=r"^[^@\s]+/[^:@\s]+$"), BeforeValidator(_repository)] | None = None
    """Where `rebake bake --push` puts releases, and from where a deploy fetches one that is not here: a repository of a
    registry, such as `registry.example.com/team/shop`."""
    extras: tuple[Filled, ...] = ()
    """python: optional dependencies of pyproject.toml that go in, such as `postgresql`."""
    build: Filled | None = None
    """node: the script of package.json that is run after the install, such as `build`."""
    dockerfile: Filled = "Dockerfile"
    """dockerfile: the file, relative to the source."""


class Health(Part):
    """How an instance shows that it can serve."""

    path: UrlPath = "/healthz"
    """Asked with GET; a good answer means that the instance can serve. A worker without path and command is healthy as
    long as it stays up."""
    command: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None
    """worker: a program, as a list, run in the place of the instance; exit code 0 means that the instance is well."""
    interval: Annotated[int, durations("50ms", "1h")] = 500
    """Time between two questions; by default 5s for a command."""
    timeout: Times = 2000
    """How long an answer may take."""
    start_timeout: Annotated[int, durations("100ms", "1h")] = 30_000
    """How long an instance may take from its start to its first good answer."""
    healthy_after: Count = 1
    """Good answers in a row that make an instance healthy."""
    unhealthy_after: Count = 3
    """Bad answers in a row that make it unhealthy."""


class Resources(Part):
    """What one instance may use. Without a key there is no limit."""

    memory: Annotated[int, sizes("16MiB")] | None = None
    """The most memory of one instance."""
    cpu: Annotated[int, thousandths(0.01, 1024)] | None = None
    """The most processor cores of one instance; 0.5 is half a core."""


class Run(Part):
    """The run contract: how one instance is run. It is part of the release."""

    command: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None
    """The program and its arguments as a list. No shell sees it; $PORT, $HOST and names under env are expanded. The
    builders static, dockerfile and image know one of their own."""
    kind: Literal["http", "worker", "job"] = "http"
    """What the instances do: `http` answers requests that come by the route; `worker` has no route and fetches its work
    itself, from a queue for example; `job` is started by a schedule, does its work and ends."""
    port: Annotated[int, wholes(1, 65535)] | None = None
    """The port inside a container: by default the only one that an image says it has, else 8080. On `local` each
    instance has its own. Always told as $PORT."""
    health: Health = Health()
    """How an instance shows that it can serve."""
    drain: Annotated[int, durations("0s", "1h")] = 10_000
    """How long an instance may take to finish its requests before it is ended."""
    env: dict[Variable, Text] = {}
    """Environment variables that are the same everywhere."""
    resources: Resources = Resources()
    """What one instance may use."""


# --- checks ----------------------------------------------------------------------------------------------------------


class HttpRequest(Part):
    """One request and the answer it must get."""

    path: UrlPath
    """What is asked."""
    method: Literal["GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"] = "GET"
    """How it is asked."""
    expect_status: Annotated[int, wholes(100, 599)] = 200
    """The status the answer must have."""
    expect_body: Filled | None = None
    """Text that the answer must contain."""
    timeout: Times = 5000
    """How long the answer may take."""


def _one_key(*keys: str) -> ConfigDict:
    """For the JSON Schema: exactly one of these keys. The loader's own sentence is in `rules`."""
    return ConfigDict(json_schema_extra={"oneOf": [{"required": [key]} for key in keys]})


class Check(Part):
    """A test of the candidate before any user reaches it: a request or a command."""

    model_config = _one_key("http", "command")

    name: Name
    """Names the check in reports; each name once."""
    http: HttpRequest | None = None
    """A request that every instance of the candidate must answer as expected."""
    command: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None
    """A program, as a list, run in the folder of this file and told $REBAKE_URL and $REBAKE_URLS; exit code 0
    passes."""
    timeout: Annotated[int, durations("100ms", "24h")] = 300_000
    """How long the command may take."""


# --- strategies ------------------------------------------------------------------------------------------------------

Profile = Literal["fast", "default", "careful"]
Inner = Annotated[int, shares("0.01%", "99.99%")]
Hold = Annotated[int, durations("0s", "30d")]


class CopySettings(Part):
    """Copies of real requests go to the candidate; its answers reach nobody."""

    share: Annotated[int, shares("0.01%", "100%")] = 2000
    """The share of the safe requests (GET, HEAD) that is copied."""
    for_: Annotated[int, durations("1s", "30d")] = Field(300_000, alias="for")
    """How long requests are copied before the route moves."""


class CanarySettings(Part):
    """A ramp of the judge's own (`profile`), or fixed `steps`."""

    profile: Profile | None = None
    """How much evidence each step of the judge's own ramp wants; `default` where neither profile nor steps is given."""
    steps: Annotated[tuple[Annotated[int, shares("0.01%")], ...], Field(min_length=1)] | None = None
    """The candidate's shares, rising. The last step, to the whole traffic, is implied."""
    hold: Hold = 120_000
    """With steps: how long each is held at least."""
    mirror: CopySettings | None = None
    """Before its first user the candidate is tried with copies of real requests."""


class LinearSettings(Part):
    """Steps of one size."""

    step: Inner = 1000
    """What each step adds to the candidate's share."""
    every: Hold = 60_000
    """How long each step is held at least."""
    mirror: CopySettings | None = None
    """Before its first user the candidate is tried with copies of real requests."""


class Canary(Part):
    """`{canary: {…}}`."""

    canary: CanarySettings
    """The candidate gets a few users first, then more."""


class Linear(Part):
    """`{linear: {…}}`."""

    linear: LinearSettings
    """The candidate's share grows by the same step each time."""


class Shadow(Part):
    """`{shadow: {…}}`."""

    shadow: CopySettings
    """The candidate is tried with copies of real requests, then gets all users."""


_SHAPE = "a strategy: " + ", ".join(STRATEGIES) + ", or one of canary, linear and shadow with settings"


def _strategy_shape(value: Any) -> Any:
    """Refuse what is neither a name nor one strategy with its settings."""
    if isinstance(value, str):
        return value
    if not isinstance(value, dict):
        raise mistaken("wrong-strategy", _SHAPE)
    if len(value) != 1:
        raise mistaken("wrong-strategy", _SHAPE, found=f"{len(value)} keys" if value else "an empty mapping")
    name = str(next(iter(value)))
    if name in ("all-at-once", "blue-green"):
        raise mistaken("wrong-strategy", "", problem=f"{name} has no settings", remedy=f"write strategy: {name}")
    return value


def _strategy_tag(value: Any) -> str:
    if isinstance(value, str):
        return TAG + "name"
    name = next(iter(value)) if isinstance(value, dict) and value else type(value).__name__.lower()
    return TAG + (name if name in ("canary", "linear", "shadow") else "canary")


StrategyChoice = Annotated[
    Annotated[Literal["all-at-once", "blue-green", "canary", "linear", "shadow"], Tag(TAG + "name")]
    | Annotated[Canary, Tag(TAG + "canary")]
    | Annotated[Linear, Tag(TAG + "linear")]
    | Annotated[Shadow, Tag(TAG + "shadow")],
    Discriminator(_strategy_tag),
    BeforeValidator(_strategy_shape),
]


# --- environments ----------------------------------------------------------------------------------------------------


class JudgeErrors(Part):
    """The margin within which the candidate's error rate counts as no worse than stable's."""

    ratio: Annotated[int, thousandths(1, 10)] = 1100
    """Times stable's error rate …"""
    extra: Annotated[int, shares("0%", "50%")] = 10
    """… plus this share of the requests."""


class JudgeRefusals(Part):
    """The margin within which the candidate's share of refusals, and that of redirects, counts as no worse than
    stable's."""

    ratio: Annotated[int, thousandths(1, 10)] = 1500
    """Times stable's share of answers with 4xx (for redirects: with 3xx but 304) …"""
    extra: Annotated[int, shares("0%", "90%")] = 200
    """… plus this share of the answers."""


class JudgeLatency(Part):
    """How much slower than stable the candidate may be, by quantile."""

    p50: Annotated[int, shares()] = 700
    """Allowed growth of the median."""
    p90: Annotated[int, shares()] = 1000
    """Allowed growth of the 90th percentile."""
    p99: Annotated[int, shares()] = 2000
    """Allowed growth of the 99th percentile."""


class PrometheusMetric(Part):
    """Read from a Prometheus server: `query` for numbers, `hits` and `total` for a share."""

    url: WebUrl
    """Where the server is; its API is asked at /api/v1/query below it."""
    query: Query | None = None
    """A query whose result is numbers, one for each series."""
    hits: CounterQuery | None = None
    """A counter as it stands: how many of the total had the event."""
    total: CounterQuery | None = None
    """The counter of all; `$requests` means the users' requests that rebake's own route dealt to the cohort."""
    token_file: AbsolutePath | None = None
    """A file with a bearer token, on the machine of the agent."""
    timeout: Annotated[int, durations("100ms", "1m")] = 5000
    """How long an answer may take."""


class EndpointMetric(Part):
    """Read from the service's own metrics, of each instance: one of `value`, `growth`, and `hits` with `total`."""

    path: UrlPath = "/metrics"
    """Where every instance shows its metrics, as Prometheus' text or OpenMetrics."""
    value: Selector | None = None
    """A gauge, whose value is the number."""
    growth: Selector | None = None
    """A counter, whose growth is the number: for each second, or for each one that `per` grew by."""
    per: Selector | None = None
    """With growth: the counter it is divided by. A sum of durations per count of them is their mean."""
    hits: Selector | None = None
    """A counter: how many of the total had the event."""
    total: Total | None = None
    """The counter of all; `$requests` means the users' requests that rebake's own route dealt to the cohort."""
    timeout: Annotated[int, durations("100ms", "1m")] = 5000
    """How long an answer may take."""


class Margin(Part):
    """What a candidate may be worse by: `ratio` and `extra` for shares, `percent` and `absolute` for numbers."""

    ratio: Annotated[int, thousandths(1, 10)] | None = None
    """Shares: times stable's share (1.1 unless given) …"""
    extra: Annotated[int, shares("0%", "50%")] | None = None
    """… plus this (0.1% unless given)."""
    percent: Annotated[int, shares()] | None = None
    """Numbers: this part of stable's number (20% unless given) …"""
    absolute: Annotated[int, thousandths(0, 1_000_000_000)] | None = None
    """… plus this, in the number's own unit (0 unless given)."""


class Metric(Part):
    """One metric of the service's own, compared between the cohorts."""

    model_config = _one_key("prometheus", "endpoint", "command")

    prometheus: PrometheusMetric | None = None
    """Read from a Prometheus server."""
    endpoint: EndpointMetric | None = None
    """Read from the service's own metrics endpoint, of each instance."""
    command: Annotated[tuple[Filled, ...], Field(min_length=1)] | None = None
    """A program, as a list, run in the folder of this file for each cohort in turn and told $REBAKE_COHORT,
    $REBAKE_URL and $REBAKE_URLS."""
    reads: Literal["exit-code", "number"] | None = None
    """With command: `exit-code` (the default) takes each run as a trial that passes with 0; `number` reads the last
    line it prints. Exit code 75 means no data."""
    timeout: Annotated[int, durations("100ms", "10m")] | None = None
    """With command: how long a run may take (30s unless given)."""
    worse: Literal["higher", "lower"] = "higher"
    """Which way harm lies."""
    margin: Margin = Margin()
    """What the candidate may be worse by."""
    interval: Annotated[int, durations("1s", "1h")] = 10_000
    """How often it is read."""
    span: Annotated[int, durations("1s", "1h")] | None = None
    """Numbers: readings within one span count as one (30s unless given). Longer than what one value says of the
    next."""
    loaded: StrictBool | None = None
    """Numbers: whether it goes with an instance's traffic (true unless given). Then it is compared only while an
    instance of the candidate gets no more of it than one of stable."""
    missing: Literal["undecided", "ignore"] = "undecided"
    """What no data means: the verdict is undecided and the rollout holds, or the metric is left out."""
    observe: StrictBool = False
    """Shown, and never decides."""


class Judge(Part):
    """When a candidate counts as worse than stable."""

    false_rollbacks: Annotated[int, shares("0.01%", "20%")] = 100
    """The bound on the probability that a release no worse than the margins is taken back."""
    errors: JudgeErrors = JudgeErrors()
    """The margin for errors."""
    refusals: JudgeRefusals = JudgeRefusals()
    """The margin for refusals (4xx), and apart from them for redirects (3xx)."""
    answer_within: Annotated[int, durations("1s", "1h")] = 10_000
    """A request without an answer after this time counts as unanswered, while it goes on waiting."""
    latency: JudgeLatency = JudgeLatency()
    """The margins for latency."""
    min_requests: Annotated[int, wholes(1, 1_000_000)] = 20
    """Requests the candidate must have served in a step before the step can be called healthy."""
    metrics: Annotated[dict[Name, Metric], Field(max_length=16)] = {}
    """Metrics of the service's own that are compared too, by name."""


class StickySettings(Part):
    """Callers stay with the cohort they met first, by a cookie."""

    cookie: Annotated[str, Field(pattern=r"^[A-Za-z0-9_-]{1,64}$")] = "rebake-cohort"
    """The cookie's name."""
    ttl: Annotated[int, durations("1s", "365d")] = 3_600_000
    """How long the cookie lives, in whole seconds."""


def _sticky_tag(value: Any) -> str:
    return TAG + ("settings" if isinstance(value, dict) else "flag")


StickyChoice = Annotated[
    Annotated[StrictBool, Tag(TAG + "flag")] | Annotated[StickySettings, Tag(TAG + "settings")],
    Discriminator(_sticky_tag),
]


class Secret(Part):
    """Where a secret is read from when a rollout begins: one of the two."""

    model_config = _one_key("file", "env")

    file: AbsolutePath | None = None
    """An absolute path on the machine of the agent."""
    env: Variable | None = None
    """The name of an environment variable of the `rebake deploy` command."""


class Window(Part):
    """A time of the week, by the clock on the wall."""

    days: tuple[Day, ...] | None = None
    """The days on which it opens; by default every day."""
    from_: Opening = Field(0, alias="from")
    """When it opens, such as 09:00."""
    to: Closing = 1440
    """When it closes, such as 16:00; a time at or before `from` is one of the next day."""
    zone: Zone = "UTC"
    """Whose clock is meant, such as Europe/Berlin."""


def _window_tag(value: Any) -> str:
    return TAG + ("several" if isinstance(value, list | tuple) else "one")


WindowChoice = Annotated[
    Annotated[Window, Tag(TAG + "one")] | Annotated[tuple[Window, ...], Tag(TAG + "several")],
    Discriminator(_window_tag),
]


class Freeze(Part):
    """Dates between which no user is moved on."""

    from_: Moment = Field(alias="from")
    """The first day, or the moment at which it begins."""
    to: Moment
    """The last day, which is frozen whole, or the moment at which it ends."""
    zone: Zone = "UTC"
    """Whose clock is meant."""
    reason: Filled
    """Why; people who wait read it."""


class Schedule(Part):
    """When a job is run: one of `every` and `cron`."""

    model_config = _one_key("every", "cron")

    every: Annotated[int, durations("1s", "365d")] | None = None
    """At each multiple of this, counted from 1970-01-01 00:00 UTC."""
    cron: Cron | None = None
    """As a line of crontab says: minute, hour, day of the month, month, day of the week."""
    zone: Zone = "UTC"
    """Whose clock cron goes by, such as Europe/Berlin."""
    timeout: Annotated[int, durations("1s", "30d")] = 3_600_000
    """A run that takes longer is told to finish, and failed."""
    overlap: Literal["skip", "allow"] = "skip"
    """What becomes of a run that is due while another one is under way: it is left out, or runs beside it."""
    missed: Literal["run", "skip"] = "run"
    """What becomes of the latest run that was due while no agent was there: it is made up for, or left out."""


class Local(Part):
    """What only the platform `local` knows."""

    writable: tuple[AbsolutePath, ...] = ()
    """Folders that instances may write to besides their scratch folder and $REBAKE_DATA; absolute paths."""


class Docker(Part):
    """What only the platform `docker` knows."""

    socket: AbsolutePath | None = None
    """The engine's Unix socket (Docker's, or Podman's compatible one); by default $DOCKER_HOST, else this machine's."""
    network: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,127}$")] | None = None
    """An existing network of the engine to join, such as one with a database; by default the home's own."""
    user: Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*(:[A-Za-z0-9_][A-Za-z0-9_.-]*)?$")] | None = None
    """Whom instances run as, UID[:GID] or a name of the image; by default the image's own user, never root unasked."""
    writable: tuple[AbsolutePath, ...] = ()
    """Folders inside the container that are empty and writable in each instance, in memory."""
    scratch: Annotated[int, sizes("1MiB")] | None = None
    """The most that the scratch folder, and each of the writable ones, may hold; 256MiB by default."""
    pids: Annotated[int, wholes(1, 100_000)] = 512
    """The most processes and threads of one instance."""
    exec: Literal["replace", "allow"] = "replace"
    """Whether an instance in which somebody opened an exec session counts as changed, and is replaced."""


class KubernetesGateway(Part):
    """The Gateway (Gateway API) by which users come, shared with others."""

    name: ObjectName
    """The Gateway's name."""
    namespace: Name | None = None
    """Its namespace; by default the environment's own."""
    section: ObjectName | None = None
    """The listener of the Gateway to attach to; by default every one that lets us."""
    hostnames: tuple[Hostname, ...] = ()
    """The names users call, such as shop.example or *.shop.example; by default those of the listener."""


class KubernetesAutoscale(Part):
    """A fleet grows with its load, from `instances` up to `max`."""

    max: Annotated[int, wholes(2, 1000)]
    """The most pods of a fleet."""
    cpu: Annotated[int, shares("1%", "100%")] = 7000
    """The processor use, as a share of run.resources.cpu, that pods are added to hold."""


class KubernetesTraffic(Part):
    """Where the judge reads what became of users' requests: a Prometheus server that watches the gateway."""

    prometheus: WebUrl
    """Where the server is; its API is asked at /api/v1/query below it."""
    from_: Literal["envoy-gateway", "istio", "nginx-gateway", "traefik", "own"] = Field("envoy-gateway", alias="from")
    """Whose series are read. `own`: the service's own, by the three queries below."""
    requests: CounterQuery | None = None
    """own: a counter of requests as it stands, with the placeholders of judge.metrics."""
    errors: CounterQuery | None = None
    """own: the counter of those that failed."""
    latency: CounterQuery | None = None
    """own: the counters of a histogram of durations in seconds, by `le`."""
    token_file: AbsolutePath | None = None
    """A file with a bearer token, on the machine of the agent."""
    timeout: Annotated[int, durations("100ms", "1m")] = 5000
    """How long an answer may take."""


class Kubernetes(Part):
    """What only the platform `kubernetes` knows."""

    context: Filled | None = None
    """The context of the kubeconfig; by default its current one, or the account of the pod that the agent runs in."""
    kubeconfig: Filled | None = None
    """The kubeconfig, on the machine of the agent; by default $KUBECONFIG, else the pod's account, else
    ~/.kube/config."""
    namespace: Name | None = None
    """Where everything is made; by default the context's namespace."""
    registry: Annotated[str, Field(pattern=r"^[^@\s]+/[^:@\s]+$"), BeforeValidator(_repository)] | None = None
    """The repository that releases are pushed to and nodes pull from; by default bake.repository."""
    pull_secret: ObjectName | None = None
    """A Secret of the namespace with which nodes pull from the registry."""
    gateway: KubernetesGateway | None = None
    """The Gateway that users come by. Without one the route is the Service's selector: blue-green and all-at-once
    only, or canary_by."""
    canary_by: Literal["instances"] | None = None
    """`instances`: canary and linear without a gateway. A share of the users is one of the pods behind the Service, so
    each step must be one that so many instances have."""
    kind: Literal["deployment", "statefulset"] = "deployment"
    """What a fleet is: a Deployment, or a StatefulSet, whose pods have names that stay."""
    autoscale: KubernetesAutoscale | None = None
    """A HorizontalPodAutoscaler for each fleet; without it a fleet has just its instances."""
    service_account: ObjectName | None = None
    """The service account of the pods, whose token they are given; by default none is."""
    user: Annotated[int, wholes(1, 2_147_483_647)] | None = None
    """The user id that instances run as; by default the image's own user, or 65532 where that is root or has no
    number."""
    writable: tuple[AbsolutePath, ...] = ()
    """Folders inside the container that are empty and writable in each instance."""
    scratch: Annotated[int, sizes("1MiB")] | None = None
    """The most that the scratch folder, and each of the writable ones, may hold; 256MiB by default."""
    labels: dict[LabelName, LabelValue] = {}
    """Labels that the pods bear besides rebake's own."""
    audit_log: AbsolutePath | None = None
    """The API server's audit log, a file on the machine of the agent: a pod in which somebody opened a session is
    replaced. Without it such sessions are not seen."""
    traffic: KubernetesTraffic | None = None
    """Where the judge reads what became of users' requests; without it a rollout has no evidence, and asks a person."""


class Environment(Part):
    """A place where the service runs."""

    platform: Annotated[
        Literal["local", "docker", "kubernetes"],
        BeforeValidator(
            one_of("platform-not-available", OTHER_PLATFORMS, "platform", "write local, docker or kubernetes")
        ),
    ]
    """What raises the fleets. `local`: processes of this machine. `docker`: containers of this machine. `kubernetes`:
    pods of a cluster."""
    listen: Listen | None = None
    """The address users call; required, but for a worker or a job, which have none, and on `kubernetes`, where users
    call the gateway or the Service."""
    schedule: Schedule | None = None
    """When a job is run; required for a job."""
    instances: Annotated[int, wholes(1, 1000)] = 2
    """How many instances a fleet has."""
    strategy: StrategyChoice = "blue-green"
    """How the route moves to the candidate."""
    env: dict[Variable, Text] = {}
    """Environment variables of this environment; they win over run.env."""
    secrets: dict[Variable, Secret] = {}
    """Environment variables whose values never appear in a document or log of rebake."""
    checks: tuple[Name, ...] | None = None
    """The names of the checks that run here; by default all of them."""
    judge: Judge = Judge()
    """When a candidate counts as worse than stable."""
    undecided: Literal["hold-on", "promote", "roll-back"] = "hold-on"
    """What happens when a hold ends without enough evidence. `hold-on` waits up to undecided_limit, then asks a
    person."""
    undecided_limit: Annotated[int, durations("0s", "30d")] = 1_800_000
    """How long hold-on waits before it asks a person."""
    soak: Annotated[int, durations("0s", "30d")] | None = None
    """How long stable is kept whole and warm after the last step while the judge still watches; by default 50m for
    canary, linear and shadow, 10m for blue-green, 0s for all-at-once."""
    hold_back: Annotated[int, shares("0%", "90%")] | None = None
    """canary and linear: stable's share of the traffic during the soak; by default 20%, or what the last step
    leaves if that is less."""
    shield: StrictBool | None = None
    """canary and linear: stable answers the requests that the candidate failed and that may be sent twice; they stay
    the candidate's failures. By default true."""
    keep: Annotated[int, wholes(1, 100)] = 3
    """How many previous revisions can be undone to."""
    after: Name | None = None
    """Only releases that succeeded in this other environment are deployed here."""
    approval: StrictBool = False
    """A person must approve before the candidate gets its first user."""
    window: WindowChoice = ()
    """When users may be moved on: a time of the week, or a list of them. By default at any time."""
    freeze: tuple[Freeze, ...] = ()
    """Dates between which no user is moved on."""
    when_busy: Literal["supersede", "wait"] = "supersede"
    """What a deploy does that finds another rollout under way: take its place, or wait for its end."""
    sticky: StickyChoice = False
    """Keep a caller on the cohort it met first: true, or a mapping with cookie and ttl."""
    drift_interval: Annotated[int, durations("1s", "24h")] = 10_000
    """How often every instance is compared with its release."""
    local: Local = Local()
    """Settings of the platform `local`."""
    docker: Docker = Docker()
    """Settings of the platform `docker`."""
    kubernetes: Kubernetes = Kubernetes()
    """Settings of the platform `kubernetes`."""


class Spec(Part):
    """A whole rebake.yaml: one service, how it is baked, run and tested, and where it is deployed."""

    service: Name
    """The service's name."""
    bake: Bake
    """How the source becomes a release."""
    run: Run = Run()
    """How one instance is run."""
    checks: tuple[Check, ...] = ()
    """Tests of the candidate before any user reaches it."""
    environments: Annotated[dict[Name, Environment], Field(min_length=1)]
    """The places where the service runs, by name."""
