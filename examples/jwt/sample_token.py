"""Stands for the issuer at a first try: makes a key, writes its public part to jwks.json, and prints a token.

python sample_token.py > token.txt
"""

import json
import time
from pathlib import Path

import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, generate_private_key
from jwt.algorithms import ECAlgorithm

key = generate_private_key(SECP256R1())
public = {**json.loads(ECAlgorithm.to_jwk(key.public_key())), "kid": "sample", "use": "sig", "alg": "ES256"}
Path("jwks.json").write_text(json.dumps({"keys": [public]}))

# The issuer and the audience are those that handlers.py expects without settings.
claims = {"iss": "https://login.example.org/", "aud": "shop", "sub": "alice", "exp": int(time.time()) + 3600}
print(jwt.encode(claims, key, "ES256", headers={"kid": "sample"}))
