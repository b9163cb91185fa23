"""The classes that kproxy serves, of Ingresses and of Gateways: what a user may call them."""

from kproxy import settings
from kproxy.model.judging import field_rules

DEFAULT = "kproxy"

SETTING = settings.Text(
    "NAME",
    DEFAULT,
    "name",
    field_rules.DNS_SUBDOMAIN.words.removeprefix("must be "),
    field_rules.DNS_SUBDOMAIN.admits,
)
