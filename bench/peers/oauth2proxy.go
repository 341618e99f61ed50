package main

import (
	"context"
	"os/exec"
	"path/filepath"

	"github.com/edrgate/edrgate/bench/rig"
)

// buildPeer builds the program that a module of its own below bench/ requires as a tool, with the pins of its go.sum.
func (b *benchmark) buildPeer(ctx context.Context, module, program string) (string, error) {
	binary := filepath.Join(b.cache, filepath.Base(module))
	b.progress("building %s", module)
	command := exec.CommandContext(ctx, "go", "build", "-trimpath", "-o", binary, program)
	command.Dir = filepath.Join(b.root, "bench", module)
	output, err := command.CombinedOutput()
	if err != nil {
		return "", missing(module + " cannot be built: " + string(output))
	}
	return binary, nil
}

func (b *benchmark) startOAuth2Proxy(ctx context.Context, from *issuer) (*peer, error) {
	binary, err := b.buildPeer(ctx, "oauth2-proxy", "github.com/oauth2-proxy/oauth2-proxy/v7")
	if err != nil {
		return nil, err
	}
	address, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	process, err := rig.Start(rig.Command{
		Name: "oauth2-proxy", Path: binary, Dir: b.subdirectory("oauth2-proxy"), CPUs: b.proxyCPUs,
		Args: []string{
			"--http-address=" + address, "--upstream=http://" + b.backend.small + "/", "--provider=oidc", "--oidc-issuer-url=" + from.url,
			"--client-id=" + peerAudience, "--client-secret=of-no-use-here", "--cookie-secret=0123456789abcdef0123456789abcdef", "--cookie-secure=false",
			"--email-domain=*", "--oidc-email-claim=sub", "--insecure-oidc-allow-unverified-email=true", "--skip-jwt-bearer-tokens=true",
			"--bearer-token-login-fallback=false", "--request-logging=false", "--auth-logging=false", "--standard-logging=false",
		},
	})
	if err != nil {
		return nil, err
	}
	return awaited(ctx, &peer{name: "oauth2-proxy", process: process, address: address, must: 3.5, goal: 4.5})
}
