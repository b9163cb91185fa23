"""Many Ingresses of one configuration, each with something of its own."""

from typing import Any

from tests.ingress.rig import secrets
from tests.ingress.rig.objects import ingress

NGINX = "nginx.ingress.kubernetes.io/"


def annotated(host: str, *paths: str, **annotations: str) -> dict[str, Any]:
    """An Ingress of that name and host."""
    given = {NGINX + key.replace("_", "-"): value for key, value in annotations.items()}
    return ingress(host, *(paths or ("Prefix /",)), host=f"{host}.example", annotations=given)


def tls(host: str) -> dict[str, Any]:
    return {"tls": [{"hosts": [host], "secretName": "cert"}]}


DOCUMENTS = [
    annotated("plain", "Prefix /", "Exact /e/", "ImplementationSpecific /i/"),
    annotated("small", "Prefix /", "ImplementationSpecific /large/", proxy_body_size="10"),
    annotated("unlimited", proxy_body_size="0"),
    annotated("guarded", auth_url="http://auth.example/"),
    annotated("rewritten", "Prefix /app", rewrite_target="/"),
    annotated(
        "captured",
        "ImplementationSpecific /app(/|$)(.*)",
        "ImplementationSpecific /q/([a-z]+)/(.*)",
        rewrite_target="/$2",
    ),
    annotated("with-query", "Prefix /a", rewrite_target="/b?c=d"),
    annotated("inside", "Prefix /", "Exact /e/", allowlist_source_range="127.0.0.0/8"),
    annotated("outside", "Prefix /", "Exact /e/", allowlist_source_range="10.0.0.0/8"),
    annotated("denied", denylist_source_range="10.0.0.0/8,127.0.0.1"),
    annotated("undenied", denylist_source_range="10.0.0.0/8"),
    annotated(
        "around",
        "Prefix /",
        "Prefix /small/",
        allowlist_source_range="10.0.0.0/8",
        proxy_body_size="10",
        proxy_read_timeout="7",
    ),
    ingress(
        "nested",
        "Prefix /small/([a-z]+)",
        host="around.example",
        namespace="other",
        annotations={f"{NGINX}use-regex": "true"},
    ),
    annotated("forced", force_ssl_redirect="true"),
    ingress("own", "Prefix /", host="own.example", **tls("own.example")),
    ingress("wild", "Prefix /", host="*.wild.example", **tls("*.wild.example")),
    ingress(
        "open",
        "Prefix /",
        host="open.example",
        annotations={f"{NGINX}ssl-redirect": "false"},
        **tls("open.example"),
    ),
    ingress("gone", "Prefix /", host="gone.example"),
    annotated("main"),
    ingress(
        "canary",
        "Prefix /",
        host="main.example",
        annotations={
            f"{NGINX}canary": "true",
            f"{NGINX}canary-by-header": "X-Canary",
            f"{NGINX}canary-by-cookie": "canary",
            f"{NGINX}canary-weight": "30",
        },
    ),
    annotated("valued"),
    ingress(
        "canary-valued",
        "Prefix /",
        host="valued.example",
        annotations={
            f"{NGINX}canary": "true",
            f"{NGINX}canary-by-header": "X-Canary",
            f"{NGINX}canary-by-header-value": 'a.b "$host" \\',
        },
    ),
    annotated("matched"),
    ingress(
        "canary-matched",
        "Prefix /",
        host="matched.example",
        annotations={
            f"{NGINX}canary": "true",
            f"{NGINX}canary-by-header": "X-Canary",
            f"{NGINX}canary-by-header-pattern": "^v[12]$",
        },
    ),
    secrets.secret("cert", ["own.example", "*.wild.example"]),
]
