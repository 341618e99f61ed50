package strictjson

import (
	"encoding"
	"encoding/json"
	"errors"
	"fmt"
	"reflect"
	"strings"
)

// Object is Check for a document that must be an object, and decodes it into v, a non-nil pointer, as json.Unmarshal does
// but with member names matched byte for byte at every level. json.Unmarshal folds case: a member "Exp", which no other
// reader takes for an expiry, would fill the field "exp" (RFC 7519 §4: claim names are compared as they are). Members
// that no field names are ignored.
//
// Struct types have plain fields with `json:"name"` tags: an embedded struct or the tag option "string" is an error,
// since their rules are not followed here. A type with its own UnmarshalJSON gets its value as it is written.
func Object(data []byte, maxDepth int, v any) error {
	err := Check(data, maxDepth)
	if err != nil {
		return err
	}
	if first(data) != '{' {
		return ErrNotObject
	}
	return decode(data, v)
}

var (
	unmarshaler     = reflect.TypeFor[json.Unmarshaler]()
	textUnmarshaler = reflect.TypeFor[encoding.TextUnmarshaler]()
	errTarget       = errors.New("decode target is not a non-nil pointer")
)

func decode(data []byte, v any) error {
	p := reflect.ValueOf(v)
	if p.Kind() != reflect.Pointer || p.IsNil() {
		return errTarget
	}
	return set(p.Elem(), data)
}

// set decodes data into dst. Structs, and what may hold structs, are taken apart here; the rest is encoding/json's.
func set(dst reflect.Value, data json.RawMessage) error {
	t := dst.Type()
	if reflect.PointerTo(t).Implements(unmarshaler) || reflect.PointerTo(t).Implements(textUnmarshaler) {
		return plain(dst, data)
	}
	if first(data) == 'n' { // null leaves a value as it is and clears a pointer, slice or map
		return plain(dst, data)
	}
	switch t.Kind() {
	case reflect.Struct:
		return setStruct(dst, data)
	case reflect.Pointer:
		p := reflect.New(t.Elem())
		err := set(p.Elem(), data)
		if err != nil {
			return err
		}
		dst.Set(p)
		return nil
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 { // base64 text
			return plain(dst, data)
		}
		return setSlice(dst, data)
	case reflect.Map:
		if t.Key().Kind() != reflect.String || reflect.PointerTo(t.Key()).Implements(textUnmarshaler) {
			return fmt.Errorf("decode target %s: only maps with plain string keys are supported", t)
		}
		return setMap(dst, data)
	case reflect.Array:
		return fmt.Errorf("decode target %s: arrays are not supported", t)
	case reflect.Interface:
		dst.SetZero() // json.Unmarshal would decode into a struct that the interface points to
	}
	return plain(dst, data)
}

func setStruct(dst reflect.Value, data json.RawMessage) error {
	if first(data) != '{' {
		return fmt.Errorf("%w: want an object", ErrType)
	}
	var m Members
	err := json.Unmarshal(data, &m)
	if err != nil {
		return ErrSyntax
	}
	t := dst.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			return fmt.Errorf("decode target %s: embedded field %s is not supported", t, f.Name)
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		if !f.IsExported() || name == "-" {
			continue
		}
		if strings.Contains(options, "string") {
			return fmt.Errorf("decode target %s: field %s: tag option string is not supported", t, f.Name)
		}
		if name == "" {
			name = f.Name
		}
		raw, ok := m[name]
		if !ok {
			continue
		}
		err := set(dst.Field(i), raw)
		if err != nil {
			return fmt.Errorf("member %q: %w", name, err)
		}
	}
	return nil
}

func setSlice(dst reflect.Value, data json.RawMessage) error {
	if first(data) != '[' {
		return fmt.Errorf("%w: want an array", ErrType)
	}
	var items []json.RawMessage
	err := json.Unmarshal(data, &items)
	if err != nil {
		return ErrSyntax
	}
	s := reflect.MakeSlice(dst.Type(), len(items), len(items))
	for i, item := range items {
		err := set(s.Index(i), item)
		if err != nil {
			return fmt.Errorf("item %d: %w", i, err)
		}
	}
	dst.Set(s)
	return nil
}

func setMap(dst reflect.Value, data json.RawMessage) error {
	if first(data) != '{' {
		return fmt.Errorf("%w: want an object", ErrType)
	}
	var m Members
	err := json.Unmarshal(data, &m)
	if err != nil {
		return ErrSyntax
	}
	t := dst.Type()
	out := reflect.MakeMapWithSize(t, len(m))
	for name, raw := range m {
		v := reflect.New(t.Elem()).Elem()
		err := set(v, raw)
		if err != nil {
			return fmt.Errorf("a member of the map: %w", err) // its name is the sender's
		}
		out.SetMapIndex(reflect.ValueOf(name).Convert(t.Key()), v)
	}
	dst.Set(out)
	return nil
}

// plain decodes with encoding/json a value that holds no struct of ours. Its errors are not passed on, since they quote
// the value.
func plain(dst reflect.Value, data json.RawMessage) error {
	err := json.Unmarshal(data, dst.Addr().Interface())
	if err != nil {
		return fmt.Errorf("%w: does not fit %s", ErrType, dst.Type())
	}
	return nil
}
