module github.com/ambit-mesh/ambit/ztunnel

go 1.26

require github.com/ambit-mesh/ambit/api v0.0.0

require (
	github.com/ambit-mesh/ambit/ca v0.0.0
	golang.org/x/net v0.62.0
	golang.org/x/sys v0.49.0
)

replace github.com/ambit-mesh/ambit/api => ../api

replace github.com/ambit-mesh/ambit/ca => ../ca
