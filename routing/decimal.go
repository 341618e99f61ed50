package routing

import (
	"strconv"
	"strings"
)

// decimal is the value of a JSON number, exactly. Equal numbers are equal decimals, however they are written: EDC sends 3
// as 3.0, and Java writes large ones as 1.0E12. Floating point would take two long ids for the same one.
type decimal struct {
	negative bool
	digits   string // without zeros at either end; empty: 0
	exponent int    // of the last digit
}

// maxDecimal is the length of the longest number that is written out, in characters.
const maxDecimal = 64

// maxExponent keeps sums of exponents in range. No number beyond it can be written out.
const maxExponent = 1 << 20

// parseDecimal reads a number as JSON writes it (RFC 8259 §6).
func parseDecimal(text string) (decimal, bool) {
	rest, negative := strings.CutPrefix(text, "-")
	mantissa, exponentText := rest, ""
	e := strings.IndexAny(rest, "eE")
	if e >= 0 {
		mantissa, exponentText = rest[:e], rest[e+1:]
		if exponentText == "" {
			return decimal{}, false
		}
	}
	whole, fraction, pointed := strings.Cut(mantissa, ".")
	if !isDigits(whole) || len(whole) > 1 && whole[0] == '0' || pointed && !isDigits(fraction) {
		return decimal{}, false
	}
	exponent := 0
	if exponentText != "" {
		if !isDigits(strings.TrimLeft(exponentText[:1], "+-") + exponentText[1:]) {
			return decimal{}, false
		}
		n, err := strconv.Atoi(exponentText)
		if err != nil || n > maxExponent || n < -maxExponent {
			return decimal{}, false
		}
		exponent = n
	}
	digits := strings.TrimLeft(whole+fraction, "0")
	exponent -= len(fraction)
	short := strings.TrimRight(digits, "0")
	if short == "" {
		return decimal{}, true // -0 is 0
	}
	return decimal{negative: negative, digits: short, exponent: exponent + len(digits) - len(short)}, true
}

func isDigits(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

// text writes the number without an exponent and with no more digits than it needs; false if that is too long.
func (d decimal) text() (string, bool) {
	if d.digits == "" {
		return "0", true
	}
	point := len(d.digits) + d.exponent // how many digits stand before the point
	if point > maxDecimal || -point > maxDecimal || len(d.digits) > maxDecimal {
		return "", false
	}
	s := d.digits
	switch {
	case d.exponent >= 0:
		s += strings.Repeat("0", d.exponent)
	case point > 0:
		s = s[:point] + "." + s[point:]
	default:
		s = "0." + strings.Repeat("0", -point) + s
	}
	if d.negative {
		s = "-" + s
	}
	return s, len(s) <= maxDecimal
}
