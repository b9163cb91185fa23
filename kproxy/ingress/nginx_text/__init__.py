"""The text of nginx's configuration, part by part; `kproxy.ingress.nginx_config` joins them."""
