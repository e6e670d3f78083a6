module github.com/ambit-mesh/ambit/ca

go 1.26

require github.com/ambit-mesh/ambit/api v0.0.0

replace github.com/ambit-mesh/ambit/api => ../api
