"""The daemon's metrics as a test reads them: one sample, a sum over labels, what must never go back."""

from __future__ import annotations

import dataclasses
from typing import Self

from prometheus_client.parser import text_string_to_metric_families

Key = tuple[str, frozenset[tuple[str, str]]]


@dataclasses.dataclass(frozen=True)
class Metrics:
    """One scrape; `growing` are the samples of counters and histograms."""

    samples: dict[Key, float]
    growing: frozenset[Key]

    @classmethod
    def parse(cls, text: str) -> Self:
        samples: dict[Key, float] = {}
        growing = set()
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                key = (sample.name, frozenset(sample.labels.items()))
                assert key not in samples, f"{sample.name} {sample.labels} occurs twice"
                samples[key] = sample.value
                if family.type in {"counter", "histogram"} and not sample.name.endswith("_created"):
                    growing.add(key)
        return cls(samples, frozenset(growing))

    def total(self, name: str, **labels: str) -> float:
        """The sum of all samples of `name` that carry these labels; 0 when there are none."""
        wanted = set(labels.items())
        return sum(value for (other, have), value in self.samples.items() if other == name and wanted <= have)

    def gone_back(self, earlier: Metrics) -> list[str]:
        """Counters that are smaller than they were, or have vanished."""
        return [
            f"{name}{dict(labels)}: {earlier.samples[name, labels]} -> {self.samples.get((name, labels))}"
            for name, labels in sorted(earlier.growing, key=repr)
            if self.samples.get((name, labels), -1.0) < earlier.samples[name, labels]
        ]
