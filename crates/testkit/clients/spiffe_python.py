"""The Python library `spiffe` against a Workload API: fetches what there is, checks it itself, and tells it as one line of JSON.

`spiffe_python.py ENDPOINT AUDIENCE`
"""

import json
import sys

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from spiffe import JwtSource, JwtSvid, WorkloadApiClient, X509Source


def main(endpoint: str, audience: str) -> None:
    with X509Source(socket_path=endpoint, timeout_in_seconds=10) as source:
        svid = source.svid
        domain = svid.spiffe_id.trust_domain
        roots = source.get_bundle_for_trust_domain(domain).x509_authorities
    with JwtSource(socket_path=endpoint, timeout_in_seconds=10) as source:
        token = source.fetch_svid(audience={audience})
        keys = source.get_bundle_for_trust_domain(domain)
        checked = JwtSvid.parse_and_validate(token.token, keys, {audience})
    with WorkloadApiClient(socket_path=endpoint, default_timeout=10) as client:
        validated = client.validate_jwt_svid(token.token, audience)
        try:
            client.validate_jwt_svid(token.token, "somebody-else")
            refused = False
        except Exception:  # noqa: BLE001: whatever it raises is a refusal
            refused = True
    print(
        json.dumps(
            {
                "x509_id": str(svid.spiffe_id),
                "certificate": svid.leaf.public_bytes(Encoding.DER).hex(),
                "key": svid.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()).hex(),
                "roots": [root.public_bytes(Encoding.DER).hex() for root in roots],
                "jwt_id": str(checked.spiffe_id),
                "jwt": token.token,
                "validated": str(validated.spiffe_id),
                "refused_for_another": refused,
            }
        )
    )


main(sys.argv[1], sys.argv[2])
