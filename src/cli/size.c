/* SPDX-License-Identifier: MIT */
/* Sizes, as they are typed and as they are shown. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "cli/cli.h"

/* Digits of a fraction beyond these cannot change a 64-bit size. */
#define FRACTION_DIGITS_MAX 40

static const char suffixes[] = "bkmgtpe";

/* The multiplier of a suffix letter; 0 if it is none. */
static uint64_t suffix_bytes(char c)
{
	const char *at = c ? strchr(suffixes, tolower((unsigned char)c)) : NULL;

	return at ? (uint64_t)1 << (10 * (at - suffixes)) : 0;
}

/* ".25" at *text; leaves *text after it. */
static double parse_fraction(const char **text)
{
	char digits[FRACTION_DIGITS_MAX + 2] = ".";
	size_t count = strspn(*text + 1, "0123456789");
	size_t kept = count < FRACTION_DIGITS_MAX ? count : FRACTION_DIGITS_MAX;

	memcpy(digits + 1, *text + 1, kept);
	*text += 1 + count;
	return kept ? strtod(digits, NULL) : 0;
}

int ox_cli_size_parse(const char *text, uint64_t *ret_bytes)
{
	uint64_t whole, bytes, multiplier = 1, extra;
	double fraction = 0;
	const char *at = text;
	char *end;
	bool hex;

	at += strspn(at, " \t\n\v\f\r");
	at += *at == '+';
	hex = at[0] == '0' && (at[1] == 'x' || at[1] == 'X') && isxdigit((unsigned char)at[2]);
	if (!isdigit((unsigned char)*at))
		return -EINVAL;
	errno = 0;
	whole = strtoull(at, &end, hex ? 16 : 10);
	if (errno)
		return -errno;
	at = end;
	if (*at == '.' && !hex)
		fraction = parse_fraction(&at);
	if (*at) {
		multiplier = suffix_bytes(*at++);
		if (multiplier == 0 || *at)
			return -EINVAL;
	}
	if (fraction > 0 && multiplier == 1)
		return -EINVAL;
	extra = (uint64_t)(fraction * (double)multiplier + 0.5);
	if (__builtin_mul_overflow(whole, multiplier, &bytes) ||
	    __builtin_add_overflow(bytes, extra, &bytes) || bytes > INT64_MAX)
		return -ERANGE;
	*ret_bytes = bytes;
	return 0;
}

bool ox_cli_size_is_negative(const char *text)
{
	return text[0] == '-' && strspn(text + 1, "0123456789") == strlen(text + 1) &&
	       strpbrk(text, "123456789");
}

const char *ox_cli_size_text(uint64_t bytes, char buf[OX_CLI_SIZE_MAX])
{
	static const char *const units[] = {"", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"};
	double value = (double)bytes;
	size_t unit = 0;

	/* At 1000, not 1024: three digits must be enough. */
	while (value >= 1000 && unit < sizeof(units) / sizeof(units[0]) - 1) {
		value /= 1024;
		unit++;
	}
	snprintf(buf, OX_CLI_SIZE_MAX, "%0.3g %sB", value, units[unit]);
	return buf;
}
