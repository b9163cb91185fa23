"""etcd's part: objects, their versions and history, and the rules for changing them."""
