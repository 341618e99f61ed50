package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	"github.com/edrgate/edrgate/bench/rig"
)

// Where Debian and its like have Apache's modules.
var apacheModules = []string{"/usr/lib/apache2/modules", "/usr/lib64/httpd/modules", "/usr/lib/httpd/modules"}

// apacheConfig is Apache with the event MPM and mod_auth_openidc as an OAuth 2.0 resource server that verifies tokens itself.
// One process: it has one core. Connections to the backend are kept.
const apacheConfig = `
ServerRoot {dir}
PidFile {dir}/pid
ErrorLog {dir}/error.log
LogLevel warn
Listen 127.0.0.1:{port}
ServerName 127.0.0.1
LoadModule mpm_event_module {modules}/mod_mpm_event.so
LoadModule authz_core_module {modules}/mod_authz_core.so
LoadModule authz_user_module {modules}/mod_authz_user.so
LoadModule authn_core_module {modules}/mod_authn_core.so
LoadModule proxy_module {modules}/mod_proxy.so
LoadModule proxy_http_module {modules}/mod_proxy_http.so
LoadModule auth_openidc_module {modules}/mod_auth_openidc.so
StartServers 1
ServerLimit 1
ThreadsPerChild 64
MaxRequestWorkers 64
KeepAlive On
MaxKeepAliveRequests 0
KeepAliveTimeout 60
OIDCCryptoPassphrase {secret}
OIDCOAuthVerifyJwksUri {https}/jwks.json
OIDCOAuthSSLValidateServer Off
OIDCOAuthRemoteUserClaim sub
<Location />
	AuthType oauth20
	Require valid-user
	ProxyPass http://{backend}/ keepalive=On max=64
</Location>
`

func (b *benchmark) startApache(ctx context.Context, from *issuer) (*peer, error) {
	program := ""
	for _, name := range []string{"apache2", "httpd", "/usr/sbin/apache2", "/usr/sbin/httpd"} {
		path, err := exec.LookPath(name)
		if err == nil {
			program = path
			break
		}
	}
	modules := ""
	for _, dir := range apacheModules {
		_, err := os.Stat(filepath.Join(dir, "mod_auth_openidc.so"))
		if err == nil {
			modules = dir
			break
		}
	}
	if program == "" || modules == "" {
		return nil, missing("Apache with mod_auth_openidc is not installed (Debian: apache2, libapache2-mod-auth-openidc)")
	}
	address, err := rig.FreeAddress()
	if err != nil {
		return nil, err
	}
	dir := b.subdirectory("apache")
	file := filepath.Join(dir, "apache.conf")
	err = writeConfig(file, apacheConfig, map[string]string{
		"dir": dir, "port": portOf(address), "modules": modules, "https": from.https, "backend": b.backend.small, "secret": "only-for-sessions-of-which-there-are-none",
	})
	if err != nil {
		return nil, err
	}
	process, err := rig.Start(rig.Command{Name: "apache", Path: program, Args: []string{"-f", file, "-DFOREGROUND"}, Dir: dir, CPUs: b.proxyCPUs})
	if err != nil {
		return nil, err
	}
	return awaited(ctx, &peer{name: "Apache + mod_auth_openidc", process: process, address: address, must: 2, goal: 2.5})
}

// missing is why a peer is left out.
type missing string

func (m missing) Error() string { return string(m) }

func awaited(ctx context.Context, p *peer) (*peer, error) {
	err := p.process.Await(ctx, p.address)
	if err != nil {
		p.process.Stop()
		return nil, fmt.Errorf("%s: %w", p.name, err)
	}
	return p, nil
}
