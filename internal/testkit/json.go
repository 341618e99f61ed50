package testkit

import (
	"encoding/json"
	"testing"
)

// JSON returns the JSON text of v, or v itself if it is text already.
func JSON(t testing.TB, v any) []byte {
	t.Helper()
	text, ok := v.([]byte)
	if ok {
		return text
	}
	data, err := json.Marshal(v)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
