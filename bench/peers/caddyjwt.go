package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/edrgate/edrgate/bench/rig"
)

// caddyJWTVersion is what is built where the module proxy has it.
const caddyJWTVersion = "v1.1.1"

// caddyVersion is that of the gateway's own binary, so that only the plugins differ.
const caddyVersion = "v2.11.9"

const caddyJWTConfig = `{
	admin off
	persist_config off
	default_bind 127.0.0.1
	order jwtauth before basic_auth
	log {
		level WARN
	}
}

http://{address} {
	jwtauth {
		jwk_url {issuer}/jwks.json
		issuer_whitelist {issuer}
		audience_whitelist {audience}
		user_claims sub
	}
	{proxy}
}
`

func (b *benchmark) startCaddyJWT(ctx context.Context, from *issuer) (*peer, error) {
	binary := filepath.Join(b.cache, "caddy-jwt-"+caddyJWTVersion)
	_, err := os.Stat(binary)
	if err != nil {
		err = b.buildCaddyJWT(ctx, binary)
	}
	if err != nil {
		return nil, err
	}
	address, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	dir := b.subdirectory("caddy-jwt")
	file := filepath.Join(dir, "Caddyfile")
	err = writeConfig(file, caddyJWTConfig, map[string]string{
		"address": address, "issuer": from.url, "audience": peerAudience, "proxy": rig.ReverseProxy(b.backend.small),
	})
	if err != nil {
		return nil, err
	}
	process, err := rig.Start(rig.Command{
		Name: "caddy-jwt", Path: binary, Args: []string{"run", "--config", file, "--adapter", "caddyfile"}, Dir: dir, CPUs: b.proxyCPUs,
		Env: []string{"XDG_CONFIG_HOME=" + dir, "XDG_DATA_HOME=" + dir},
	})
	if err != nil {
		return nil, err
	}
	return awaited(ctx, &peer{name: "caddy-jwt", process: process, address: address, must: 2.5, goal: 3})
}

func (b *benchmark) buildCaddyJWT(ctx context.Context, binary string) error {
	with := "github.com/ggicci/caddy-jwt@" + caddyJWTVersion
	if b.caddyJWT != "" {
		source, err := filepath.Abs(b.caddyJWT)
		if err != nil {
			return err
		}
		with = "github.com/ggicci/caddy-jwt@v0.0.0=" + source
	}
	b.progress("building caddy-jwt")
	build := exec.CommandContext(ctx, "go", "tool", "-modfile=tools/go.mod", "xcaddy", "build", caddyVersion, "--output", binary, "--with", with)
	build.Dir = b.root
	output, err := build.CombinedOutput()
	if err != nil {
		return missing("caddy-jwt cannot be built (-caddy-jwt DIR takes its source): " + string(output))
	}
	return nil
}
