"""Why credentials were refused: for the operator and the audit trail, never for the caller, who hears one sentence."""

from enum import StrEnum


class Reason(StrEnum):
    """The closed set of `Unauthenticated.reason`. Constants only: nothing of what was sent is in them."""

    MISSING_CREDENTIALS = "missing_credentials"
    AMBIGUOUS_CREDENTIALS = "ambiguous_credentials"
    MALFORMED_CREDENTIALS = "malformed_credentials"
    UNSUPPORTED_SCHEME = "unsupported_scheme"
    UNKNOWN_CREDENTIAL = "unknown_credential"
    CREDENTIAL_TOO_LARGE = "credential_too_large"
    TOKEN_IN_URL = "token_in_url"
    USER_ID_MALFORMED = "user_id_malformed"

    KEY_UNKNOWN = "key_unknown"
    KEY_REVOKED = "key_revoked"
    KEY_EXPIRED = "key_expired"

    TOKEN_MALFORMED = "token_malformed"
    TOKEN_HEADER = "token_header"
    TOKEN_TYPE = "token_type"
    TOKEN_ALGORITHM = "token_algorithm"
    TOKEN_KEY_UNKNOWN = "token_key_unknown"
    TOKEN_SIGNATURE = "token_signature"
    TOKEN_ISSUER = "token_issuer"
    TOKEN_AUDIENCE = "token_audience"
    TOKEN_EXPIRED = "token_expired"
    TOKEN_NOT_YET_VALID = "token_not_yet_valid"
    TOKEN_ID_MISSING = "token_id_missing"
    TOKEN_ID_MALFORMED = "token_id_malformed"
    TOKEN_TENANT_MALFORMED = "token_tenant_malformed"

    TICKET_UNKNOWN = "ticket_unknown"
    TICKET_IN_USE = "ticket_in_use"
    TICKET_OF_ANOTHER_STREAM = "ticket_of_another_stream"
