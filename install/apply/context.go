package apply

// CurrentContext is the kubeconfig's context, as a flag or the file says; empty if there is none, or no such context.
func (f *Flags) CurrentContext() string {
	raw, err := f.loader().RawConfig()
	if err != nil {
		return ""
	}
	name := raw.CurrentContext
	if f.overrides.CurrentContext != "" {
		name = f.overrides.CurrentContext
	}
	if raw.Contexts[name] == nil {
		return ""
	}
	return name
}
