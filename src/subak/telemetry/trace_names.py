"""The names that spans bear. Those of GenAI are still "Development" there, so all of them stand here together.

https://opentelemetry.io/docs/specs/semconv/gen-ai/gen-ai-spans/
"""

from typing import Final

SPAN: Final = "stream"
FIRST_TOKEN: Final = "gen_ai.first_token"
END: Final = "stream.end"
OPERATION: Final = "gen_ai.operation.name"
OUTPUT_TOKENS: Final = "gen_ai.usage.output_tokens"
ERROR_TYPE: Final = "error.type"
ROUTE: Final = "subak.route"
ARM: Final = "subak.arm"
OUTCOME: Final = "subak.outcome"
STREAM: Final = "subak.stream"
GATEWAY_MS: Final = "subak.gateway_ms"
INTER_TOKEN_MS: Final = "subak.inter_token_ms"
