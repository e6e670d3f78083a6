module github.com/ambit-mesh/ambit/cni

go 1.26.0

require (
	github.com/ambit-mesh/ambit/api v0.0.0
	github.com/google/go-cmp v0.7.0
	github.com/google/nftables v0.3.0
	github.com/prometheus/client_golang v1.25.0
	github.com/vishvananda/netlink v1.3.1
	github.com/vishvananda/netns v0.0.5
	go.uber.org/goleak v1.3.0
	golang.org/x/sync v0.24.0
	golang.org/x/sys v0.49.0
	sigs.k8s.io/yaml v1.6.0
)

replace github.com/ambit-mesh/ambit/api => ../api
