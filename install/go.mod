module github.com/ambit-mesh/ambit/install

go 1.26.0

require (
	github.com/ambit-mesh/ambit/api v0.0.0
	github.com/google/go-cmp v0.7.0 // tests
	github.com/spf13/cobra v1.10.2 // the command tree, its help and shell completion
	sigs.k8s.io/yaml v1.6.0 // -o yaml
)

require google.golang.org/protobuf v1.36.12

require (
	github.com/inconshreveable/mousetrap v1.1.0 // indirect
	github.com/spf13/pflag v1.0.9 // indirect
	go.yaml.in/yaml/v2 v2.4.4 // indirect
)

replace github.com/ambit-mesh/ambit/api => ../api
