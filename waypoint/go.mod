module github.com/ambit-mesh/ambit/waypoint

go 1.26

require github.com/ambit-mesh/ambit/api v0.0.0
require github.com/ambit-mesh/ambit/ca v0.0.0
require github.com/ambit-mesh/ambit/ztunnel v0.0.0

replace github.com/ambit-mesh/ambit/api => ../api
replace github.com/ambit-mesh/ambit/ca => ../ca
replace github.com/ambit-mesh/ambit/ztunnel => ../ztunnel
