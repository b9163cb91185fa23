"""The kinds that are read with `--ingress` beside those of the registry."""

from kproxy.model.kinds import registry
from kproxy.model.kinds.ingress import ingress_class_kind, ingress_kind, secret_kind

KINDS: registry.Kinds = (ingress_kind.KIND, ingress_class_kind.KIND, secret_kind.KIND)
