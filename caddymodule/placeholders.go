package caddymodule

import (
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"regexp"
	"strings"

	"github.com/caddyserver/caddy/v2"

	"github.com/edrgate/edrgate/tokens"
)

// placeholder is any placeholder.
var placeholder = regexp.MustCompile(`\{[^{}]+\}`)

// filePlaceholder is a placeholder for the content of a file.
var filePlaceholder = regexp.MustCompile(`\{file\.([^{}]+)\}`)

// replacePlaceholders replaces the placeholders of a setting when the config is loaded. Each must be known and not empty.
// Errors name the placeholder as configured, never what it gave. Caddy takes a file that cannot be read for an empty one,
// so the error says which of both it is.
func replacePlaceholders(replacer *caddy.Replacer, text string) (string, error) {
	value, err := replacer.ReplaceOrErr(text, true, true)
	if err == nil {
		return value, nil
	}
	for _, placeholder := range filePlaceholder.FindAllStringSubmatch(text, -1) {
		unreadable := checkReadable(placeholder[1])
		if unreadable != nil {
			return "", fmt.Errorf("%s: %w", placeholder[0], unreadable)
		}
	}
	return "", err
}

// headerSecret returns the value of a credential that is sent in a header. Errors name the option.
func headerSecret(replacer *caddy.Replacer, logger *slog.Logger, option, configured string) (tokens.Secret, error) {
	if !strings.Contains(configured, "{") {
		logger.Warn("a credential is part of the configuration, which the admin API shows: use a placeholder", "option", option)
	}
	value, err := replacePlaceholders(replacer, configured)
	if err != nil {
		return "", fmt.Errorf("%s: %w", option, err)
	}
	value = strings.TrimRight(value, "\r\n") // as editors leave it in a file
	if !isFieldValue(value) {
		return "", fmt.Errorf("%s cannot stand in a header", option)
	}
	return tokens.Secret(value), nil
}

func checkReadable(file string) error {
	f, err := os.Open(file)
	if err != nil {
		return openError(err)
	}
	defer f.Close()
	_, err = f.Read(make([]byte, 1))
	if err != nil && !errors.Is(err, io.EOF) {
		return openError(err)
	}
	return nil
}

// openError drops the path from an *os.PathError: it may come from a placeholder.
func openError(err error) error {
	var path *os.PathError
	if errors.As(err, &path) {
		return fmt.Errorf("cannot %s the file: %w", path.Op, path.Err)
	}
	return err
}
