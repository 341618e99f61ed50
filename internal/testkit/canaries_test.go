package testkit

import (
	"encoding/base64"
	"testing"
)

func TestCanariesAreFoundWherePlanted(t *testing.T) {
	t.Parallel()
	const token = "eyJhbGciOiJFUzI1NiJ9.e30.c2lnbmF0dXJlIG9mIGEgdG9rZW4gdGhhdCBvcGVucyBzb21ldGhpbmc"
	const credential = "a backend's own password"
	c := NewCanaries()
	c.Token("a token", token)
	c.Credential("a credential", credential)
	for name, planted := range map[string]string{
		"token in a URL":           "GET /token?refresh_token=" + token + "&x=1",
		"credential in JSON":       `{"authCode":"` + credential + `"}`,
		"credential in base64":     base64.StdEncoding.EncodeToString([]byte(`{"authCode":"` + credential + `"}`)),
		"credential, shifted by 1": base64.StdEncoding.EncodeToString([]byte(` {"authCode":"` + credential + `"}`)),
		"credential, shifted by 2": base64.StdEncoding.EncodeToString([]byte(`  {"authCode":"` + credential + `"}`)),
	} {
		if len(c.Find([]byte(planted))) == 0 {
			t.Errorf("%s: not found", name)
		}
	}
	found := c.Find([]byte(token[:len(token)-20] + " redacted"))
	if len(found) > 0 {
		t.Errorf("found %v in text without it", found)
	}
}
