"""What a rollout is judged by, read from the statistics."""

from subak.core.rollout_plan import RolloutTotals
from subak.telemetry.stats import Stats
from subak.telemetry.tally import Window, requests_and_errors

_US_PER_MS = 1000


class StatsTotals:
    """The `core.rollout_plan.TotalsSource` over a process' statistics: all arms that stream, and `/chat`."""

    __slots__ = ("_stats",)

    def __init__(self, stats: Stats) -> None:
        self._stats = stats

    def rollout_totals(self) -> RolloutTotals:
        """Give what was counted since the process started. Costs a merge of histograms: for every few seconds."""
        tally = self._stats.over(Window.SINCE_START)
        streams = tally.all_streams()
        requests, errors = requests_and_errors(tally, streams)
        return RolloutTotals(
            requests=requests,
            connected=streams.delivered,
            errors=errors,
            first_tokens=streams.first_token.count,
            first_token_sum_ms=streams.first_token.total / _US_PER_MS,
            token_gaps=streams.inter_token.count,
            token_gap_sum_ms=streams.inter_token.total / _US_PER_MS,
            chat_requests=tally.chat.count,
            chat_errors=tally.chat_classes["5xx"],
            chat_sum_ms=tally.chat.total / _US_PER_MS,
        )
