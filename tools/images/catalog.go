package images

// An Image is what one archive is made of.
type Image struct {
	// Name is the last part of the image's name.
	Name string
	// Text is one sentence for org.opencontainers.image.description.
	Text string
	// Programs are compiled and put into the last layer, because they change most often. The first is the entry point.
	Programs []Program
	// Debian are files of pinned packages, in a layer of their own.
	Debian []Take
	// Envoy adds the pinned Envoy, in a layer of its own.
	Envoy bool
	// Roots adds the public certificate authorities.
	Roots bool
	// User is UID:GID.
	User string
	// Reason says why User is root. Empty when it is not.
	Reason string
	// Env are additional variables.
	Env []string
}

// A Program is a main package and its place in the image, and other names it has there.
type Program struct {
	Package string
	Path    string
	Links   []string
}

// Take says which files of a Debian package go into an image.
type Take struct {
	Package string
	// Files are patterns of path.Match, matched against the path without its leading slash; * stops at slashes.
	Files []string
}

// Users of the images. The proxies' is the one that Istio's proxies have, because policies and probes of clusters know it.
const (
	nobody = "65532:65532"
	proxy  = "1337:1337"
	root   = "0:0"
)

const programs = "/usr/local/bin/"

// glibc is what a dynamically linked program needs to start and to resolve names.
var glibc = Take{"libc6", []string{
	"lib64/ld-linux-*", "lib/ld-linux-*", "lib/*-linux-gnu/ld-linux-*", // the loader, wherever the architecture wants it
	"lib/*-linux-gnu/libc.so.6", "lib/*-linux-gnu/libm.so.6", "lib/*-linux-gnu/librt.so.1", "lib/*-linux-gnu/libdl.so.2",
	"lib/*-linux-gnu/libpthread.so.0", "lib/*-linux-gnu/libresolv.so.2", "lib/*-linux-gnu/libnss_dns.so.2", "lib/*-linux-gnu/libnss_files.so.2",
}}

// tables is everything of iptables: what it prints of rules of others takes their extensions, so all of them come along.
var tables = []Take{
	glibc,
	{"iptables", []string{"usr/sbin/iptables*", "usr/sbin/ip6tables*", "usr/sbin/xtables*", "usr/lib/*-linux-gnu/xtables/*"}},
	{"libip4tc2", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libip6tc2", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libmnl0", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libnetfilter-conntrack3", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libnfnetlink0", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libnftnl11", []string{"usr/lib/*-linux-gnu/*.so.*"}},
	{"libxtables12", []string{"usr/lib/*-linux-gnu/*.so.*"}},
}

// Catalog returns every image.
func Catalog() []Image {
	return []Image{{
		Name: "ambitd", Text: "Ambit's control plane: configuration and certificates for the proxies",
		Programs: []Program{{Package: "./control/cmd/ambitd", Path: programs + "ambitd"}}, Roots: true, User: proxy,
	}, {
		Name: "ztunnel", Text: "Ambit's node proxy: mutual TLS and L4 policy for every pod of a node",
		Programs: []Program{{Package: "./ztunnel/cmd/ztunnel", Path: programs + "ztunnel"}}, User: root,
		Reason: "it opens its sockets inside the network namespaces of pods (setns needs CAP_SYS_ADMIN, transparent sockets CAP_NET_ADMIN)",
	}, {
		Name: "cni", Text: "Ambit's CNI agent and plugin: they lead the traffic of pods to the node proxy",
		Programs: []Program{
			{Package: "./cni/cmd/ambit-cni-agent", Path: programs + "ambit-cni-agent"},
			// The agent copies it from beside itself to the node.
			{Package: "./cni/cmd/ambit-cni", Path: programs + "ambit-cni", Links: []string{"/opt/cni/bin/ambit-cni"}},
		},
		Debian: tables, User: root,
		Reason: "it writes the node's CNI folders, enters namespaces of pods, and programs their rules",
	}, {
		Name: "waypoint", Text: "Ambit's waypoint: an agent and the unmodified Envoy beside it",
		Programs: []Program{{Package: "./waypoint/cmd/ambit-waypoint", Path: programs + "ambit-waypoint"}},
		Debian:   []Take{glibc}, Envoy: true, Roots: true, User: proxy,
		Env: []string{"AMBIT_ENVOY=" + programs + "envoy"},
	}, {
		Name: "echo", Text: "a server and client of every kind of conversation, for tests of Ambit",
		Programs: []Program{{Package: "./e2e/apps/echo/ambit-echo", Path: programs + "ambit-echo"}}, User: nobody,
	}, {
		Name: "bookinfo", Text: "the four services of Ambit's sample bookshop, one subcommand each",
		Programs: []Program{{Package: "./e2e/apps/bookinfo", Path: programs + "bookinfo"}}, User: nobody,
	}, {
		// The two that the conformance suite of the Gateway API asks for: the suite's own, and ours of its kind with a client.
		Name: "echo-basic", Text: "the echo server of the Gateway API's conformance suite",
		Programs: []Program{{Package: "sigs.k8s.io/gateway-api/conformance/echo-basic", Path: programs + "echo-basic"}}, User: nobody,
	}, {
		Name: "echo-advanced", Text: "an echo server and client in the format of the Gateway API's conformance suite",
		Programs: []Program{{
			Package: "./e2e/apps/echo/ambit-echo-advanced", Path: programs + "ambit-echo-advanced", Links: []string{programs + "client"},
		}}, User: nobody,
	}, {
		Name: "tracer", Text: "a collector of traces for tests of Ambit",
		Programs: []Program{{Package: "./e2e/apps/ambit-tracer", Path: programs + "ambit-tracer"}}, User: nobody,
	}, {
		Name: "authorizer", Text: "somebody who decides about requests, for tests of Ambit",
		Programs: []Program{{Package: "./e2e/apps/ambit-authorizer", Path: programs + "ambit-authorizer"}}, User: nobody,
	}}
}
