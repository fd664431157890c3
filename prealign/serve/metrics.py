"""What is counted, for Prometheus. Labels never hold what a client sent."""

from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
SHARES = (1e-6, 1e-5, 1e-4, 1e-3, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.99, 1.0)


@dataclass(frozen=True)
class Metrics:
    """The counters of one server, in a registry of their own."""

    registry: CollectorRegistry = field(default_factory=CollectorRegistry)
    requests: Counter = field(init=False)
    tokens: Counter = field(init=False)
    ended: Counter = field(init=False)
    violations: Counter = field(init=False)
    step_failures: Counter = field(init=False)
    active: Gauge = field(init=False)
    waiting: Gauge = field(init=False)
    first_s: Histogram = field(init=False)
    step_s: Histogram = field(init=False)
    pressure: Histogram = field(init=False)

    def __post_init__(self) -> None:
        def counter(name: str, what: str, *labels: str) -> Counter:
            return Counter(f"prealign_{name}", what, labels, registry=self.registry)

        def histogram(name: str, what: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"prealign_{name}", what, buckets=buckets, registry=self.registry)

        def gauge(name: str, what: str) -> Gauge:
            return Gauge(f"prealign_{name}", what, registry=self.registry)

        made = {
            "requests": counter("requests", "Answers by path and status.", "path", "status"),
            "tokens": counter("tokens", "Ids written, of all kinds."),
            "ended": counter("choices", "Choices by how they ended.", "why"),
            "violations": counter("guard_violations", "Ids that the gate refused."),
            "step_failures": counter("step_failures", "Steps of the engine that failed."),
            "active": gauge("rows_active", "Choices in the batch."),
            "waiting": gauge("rows_waiting", "Choices in front of the batch."),
            "first_s": histogram("first_token_seconds", "To a choice's first id.", SECONDS),
            "step_s": histogram("step_seconds", "Per step of the engine.", SECONDS),
            "pressure": histogram("pressure", "Probability of denied ids, per id.", SHARES),
        }
        for name, metric in made.items():
            object.__setattr__(self, name, metric)

    def page(self) -> bytes:
        """Return all of it in Prometheus' text form."""
        return generate_latest(self.registry)
