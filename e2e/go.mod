module github.com/ambit-mesh/ambit/e2e

go 1.26

require github.com/ambit-mesh/ambit/api v0.0.0
require github.com/ambit-mesh/ambit/ca v0.0.0
require github.com/ambit-mesh/ambit/control v0.0.0
require github.com/ambit-mesh/ambit/ztunnel v0.0.0
require github.com/ambit-mesh/ambit/cni v0.0.0
require github.com/ambit-mesh/ambit/install v0.0.0

replace github.com/ambit-mesh/ambit/api => ../api
replace github.com/ambit-mesh/ambit/ca => ../ca
replace github.com/ambit-mesh/ambit/control => ../control
replace github.com/ambit-mesh/ambit/ztunnel => ../ztunnel
replace github.com/ambit-mesh/ambit/cni => ../cni
replace github.com/ambit-mesh/ambit/install => ../install
