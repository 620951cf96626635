"""The Python library `authlib` against our authorization server: client credentials, token exchange, introspection, revocation.

`oauth_authlib.py ISSUER CLIENT KEY SUBJECT_TOKEN DETAILS`: the client's ID, the file of its private key, the token of the task of which a
part is asked for, and the details of RFC 9396. Tells as one line of JSON what it got.
"""

import json
import os
import sys
from pathlib import Path

# It talks to a broker on this very machine, without TLS.
os.environ["AUTHLIB_INSECURE_TRANSPORT"] = "1"

import requests
from authlib.integrations.requests_client import OAuth2Session
from authlib.oauth2.rfc7523 import PrivateKeyJWT
from joserfc.jwk import OKPKey

ACCESS_TOKEN = "urn:ietf:params:oauth:token-type:access_token"
EXCHANGE = "urn:ietf:params:oauth:grant-type:token-exchange"


def main(issuer: str, client: str, key: str, subject: str, details: str) -> None:
    server = requests.get(f"{issuer}/.well-known/oauth-authorization-server", timeout=10).json()
    endpoint = server["token_endpoint"]
    # It takes a PEM for an RSA key.
    private = OKPKey.import_key(Path(key).read_text(encoding="utf-8"))
    session = OAuth2Session(client, private, token_endpoint_auth_method="private_key_jwt", revocation_endpoint_auth_method="private_key_jwt")
    session.register_client_auth_method(PrivateKeyJWT(endpoint, alg="EdDSA"))
    own = session.fetch_token(endpoint, grant_type="client_credentials")
    exchange = {"grant_type": EXCHANGE, "subject_token": subject, "subject_token_type": ACCESS_TOKEN, "authorization_details": details}
    part = session.fetch_token(endpoint, **exchange)
    about = session.introspect_token(server["introspection_endpoint"], token=part["access_token"]).json()
    revoked = session.revoke_token(server["revocation_endpoint"], token=part["access_token"]).status_code
    after = session.introspect_token(server["introspection_endpoint"], token=part["access_token"]).json()
    try:
        session.fetch_token(endpoint, **{**exchange, "subject_token": own["access_token"]})
        refused = None
    except Exception as error:  # noqa: BLE001: what it raises is what is told
        refused = getattr(error, "error", str(error))
    print(json.dumps({"own": own, "part": part, "about": about, "revoked": revoked, "after": after, "refused": refused}))


main(*sys.argv[1:6])
