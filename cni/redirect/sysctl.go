package redirect

import "os"

// migrateSysctl lets connections that wait to be accepted move to another listener of the same port when theirs closes.
// While one node proxy replaces another both listen in the pod; without it, closing the old one's listener resets
// callers that were about to be accepted. Linux 5.14, Documentation/networking/ip-sysctl.rst tcp_migrate_req.
const migrateSysctl = "/proc/sys/net/ipv4/tcp_migrate_req"

// tune sets it in the calling thread's namespace. Older kernels and a read-only /proc do without.
func tune(value string) { _ = os.WriteFile(migrateSysctl, []byte(value), 0) }
