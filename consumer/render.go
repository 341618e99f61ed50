package consumer

import (
	"encoding/json"
	"maps"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/edrgate/edrgate/tokens"
)

// contextValue is the JSON-LD context of Tractus-X 0.12.1's EDR API, from which the names below are compacted.
var contextValue = map[string]string{
	"@vocab": edcNamespace, "edc": edcNamespace, "tx-auth": tractusXNamespace, "odrl": "http://www.w3.org/ns/odrl/2/",
}

// DataAddress renders the EDR as `GET /v3/edrs/{id}/dataaddress` of EDC does (observed on Tractus-X 0.12.1): a flat object
// of text, with the prefix tx-auth: on the renewal properties. Of the other properties those without a namespace are
// left out, as EDC does. renewal false leaves the refresh token and its companions out: an application that only wants
// to use the EDR must not renew beside the gateway.
//
// The result holds the tokens in clear: it is an answer to somebody who may have them, and goes into no log.
func (e *EDR) DataAddress(renewal bool) ([]byte, error) {
	authorization, authType := e.AccessToken.Reveal(), e.AuthType
	switch {
	case authorization == "" || e.Scheme == "":
	case e.Dialect == tokens.Classic:
		authorization = e.Scheme + " " + authorization // as the provider wrote it: classic clients send the value as it is
	case authType == "":
		authType = bearer // DPS HTTP profile: required beside authorization
	}
	members := map[string]any{"@type": "DataAddress", "@context": contextValue}
	set := func(name, value string) {
		if name != "" && value != "" {
			members[name] = value
		}
	}
	for _, name := range slices.Sorted(maps.Keys(e.Properties)) {
		set(compact(name), e.Properties[name])
	}
	set("endpoint", e.Endpoint)
	set("endpointType", e.EndpointType)
	set("type", e.EndpointType)
	set("authorization", authorization)
	set("authType", authType)
	for name := range fields {
		delete(members, "tx-auth:"+name) // a property of the provider's must not pass for one of the renewal
	}
	if renewal && e.RefreshToken != "" {
		set("tx-auth:refreshToken", e.RefreshToken.Reveal())
		set("tx-auth:refreshEndpoint", e.RefreshEndpoint)
		set("tx-auth:refreshAudience", e.RefreshAudience)
	}
	if e.ExpiresIn > 0 {
		set("tx-auth:expiresIn", seconds(e.ExpiresIn))
	}
	return json.Marshal(members)
}

// compact writes a full IRI as the context does. Names without a namespace are "".
func compact(name string) string {
	plain, found := strings.CutPrefix(name, edcNamespace)
	if found {
		return plain
	}
	plain, found = strings.CutPrefix(name, tractusXNamespace)
	if found {
		return "tx-auth:" + plain
	}
	if strings.Contains(name, ":") {
		return name
	}
	return ""
}

func seconds(d time.Duration) string { return strconv.FormatInt(int64(d/time.Second), 10) }
