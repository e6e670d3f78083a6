package daemon

import (
	"cmp"
	"fmt"
	"io/fs"
	"path/filepath"
	"strconv"
	"time"

	"github.com/ambit-mesh/ambit/cni/chain"
)

// Chain is how the plugin is installed, in the words of Istio's settings (istio/istio cni/pkg/constants).
type Chain struct {
	// ConfDir and BinDir are the node's folders where the agent sees them (MOUNTED_CNI_NET_DIR, MOUNTED_CNI_BIN_DIR).
	// Without a ConfDir nothing is installed.
	ConfDir, BinDir string
	// Program is the plugin's program (AMBIT_CNI_PLUGIN).
	Program string
	// ConfName is the configuration in effect, if that is not the first one by name (CNI_CONF_NAME). It is the plugin's own
	// where that is not chained.
	ConfName string
	// Chained is false for a configuration of the plugin alone (CHAINED_CNI_PLUGIN).
	Chained bool
	// Owned leaves the configuration of others alone and puts a copy before it (ISTIO_OWNED_CNI_CONFIG), named OwnedName.
	Owned     bool
	OwnedName string
	// DetectionRetry lets the plugin ask again for a while whether a pod is for the mesh (ENABLE_AMBIENT_DETECTION_RETRY).
	DetectionRetry bool
	// Account is the service account of the agent's namespace that the plugin asks the API server as (AMBIT_CNI_PLUGIN_ACCOUNT). Empty means
	// as the agent itself, which ends with the agent's pod.
	Account string
	// KubeconfigMode is of the plugin's kubeconfig (KUBECONFIG_MODE).
	KubeconfigMode fs.FileMode
	// CAFile and SkipVerify replace how the plugin knows the API server (KUBE_CA_FILE, SKIP_TLS_VERIFY).
	CAFile     string
	SkipVerify bool
	// Every is how often the installation is looked at even if nothing seems to have changed.
	Every time.Duration
}

func defaultChain() Chain {
	return Chain{BinDir: "/host/opt/cni/bin", Chained: true, OwnedName: "02-ambit-cni.conflist", KubeconfigMode: 0o600, Every: 5 * time.Second}
}

func (c *Chain) fromEnv(e *env) {
	e.text("MOUNTED_CNI_NET_DIR", &c.ConfDir)
	e.text("MOUNTED_CNI_BIN_DIR", &c.BinDir)
	e.text("AMBIT_CNI_PLUGIN", &c.Program)
	e.text("CNI_CONF_NAME", &c.ConfName)
	e.flag("CHAINED_CNI_PLUGIN", &c.Chained)
	e.flag("ISTIO_OWNED_CNI_CONFIG", &c.Owned)
	// Istio's chart sets the first, its flags are named after the second.
	e.text("ISTIO_OWNED_CNI_CONF_FILENAME", &c.OwnedName)
	e.text("ISTIO_OWNED_CNI_CONFIG_FILENAME", &c.OwnedName)
	e.flag("ENABLE_AMBIENT_DETECTION_RETRY", &c.DetectionRetry)
	e.text("AMBIT_CNI_PLUGIN_ACCOUNT", &c.Account)
	e.text("KUBE_CA_FILE", &c.CAFile)
	e.flag("SKIP_TLS_VERIFY", &c.SkipVerify)
	if mode := ""; e.text("KUBECONFIG_MODE", &mode) {
		n, err := strconv.ParseUint(mode, 8, 9)
		e.note("KUBECONFIG_MODE", err)
		c.KubeconfigMode = fs.FileMode(n)
	}
}

func (c Chain) validate(podNamespace string) error {
	switch {
	case c.ConfDir == "":
		return nil
	case c.Owned && (filepath.Base(c.OwnedName) != c.OwnedName || filepath.Ext(c.OwnedName) != ".conflist"):
		return fmt.Errorf("ISTIO_OWNED_CNI_CONFIG_FILENAME=%q: want the name of a .conflist in %s", c.OwnedName, c.ConfDir)
	case c.ConfName != "" && (filepath.Base(c.ConfName) != c.ConfName || !chain.IsConf(c.ConfName)):
		return fmt.Errorf("CNI_CONF_NAME=%q: want the name of a .conf or .conflist in %s", c.ConfName, c.ConfDir)
	case !c.Chained && c.ConfName != "" && filepath.Ext(c.ConfName) != ".conf":
		return fmt.Errorf("CNI_CONF_NAME=%q: a plugin that is not chained (CHAINED_CNI_PLUGIN=false) has a .conf of its own: name one, or none", c.ConfName)
	case c.Account != "" && podNamespace == "":
		return fmt.Errorf("AMBIT_CNI_PLUGIN_ACCOUNT=%q is of the agent's namespace: set POD_NAMESPACE", c.Account)
	case c.Every <= 0:
		return fmt.Errorf("the installation has to be looked at now and then, not every %s", c.Every)
	}
	return nil
}

// aloneName is the file of a plugin that is not chained, sorted behind all others.
const aloneName = "YYY-ambit-cni.conf"

// kubeconfig is where the plugin finds the API server.
func (c Config) kubeconfig() string { return filepath.Join(c.RunDir, "ambit-cni-kubeconfig") }

// Keeper is what keeper to make of the configuration. credentials give the plugin's kubeconfig its content.
func (c Config) Keeper(credentials func() ([]byte, error)) (chain.Config, error) {
	entry := chain.Entry{
		Selectors: c.Policy.Selectors, ExcludeNamespaces: c.Policy.ExcludeNamespaces, PodNamespace: c.PodNamespace,
		RunDir: c.RunDir, DetectionRetry: c.Chain.DetectionRetry, LogLevel: c.LogLevel.String(), Kubeconfig: c.kubeconfig(),
	}
	data, err := entry.JSON()
	if err != nil {
		return chain.Config{}, err
	}
	s := chain.Settings{Entry: data, Name: c.Chain.ConfName}
	switch {
	case !c.Chain.Chained:
		s.Mode, s.Own = chain.Standalone, cmp.Or(c.Chain.ConfName, aloneName)
	case c.Chain.Owned:
		s.Mode, s.Own = chain.Owned, c.Chain.OwnedName
	}
	return chain.Config{
		Settings: s, ConfDir: c.Chain.ConfDir, BinDir: c.Chain.BinDir, Program: c.Chain.Program, Every: c.Chain.Every,
		Kubeconfig: c.kubeconfig(), KubeconfigMode: c.Chain.KubeconfigMode, Credentials: credentials,
	}, nil
}
