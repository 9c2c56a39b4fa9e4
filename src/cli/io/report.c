/* SPDX-License-Identifier: MIT */
/* Numbers in and out of a session. */
#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "cli/io/session.h"

#define DUMP_WIDTH 16

const char *ox_cli_io_count_text(double value, char buf[OX_CLI_SIZE_MAX])
{
	static const char *const units[] = {"bytes", "KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
	char number[OX_CLI_SIZE_MAX], *zeroes;
	size_t unit = 0;

	while (value >= 1024 && unit < sizeof(units) / sizeof(units[0]) - 1) {
		value /= 1024;
		unit++;
	}
	snprintf(number, sizeof(number), unit ? "%.3f" : "%f", value);
	zeroes = strstr(number, ".000");
	if (zeroes)
		*zeroes = '\0';
	snprintf(buf, OX_CLI_SIZE_MAX, "%.20s %s", number, units[unit]);
	return buf;
}

int ox_cli_io_parse_number(const char *text, uint64_t *ret)
{
	int r = ox_cli_size_parse(text, ret);

	if (r == -ERANGE)
		printf("Parsing error: argument too large -- %s\n", text);
	else if (r < 0)
		printf("Parsing error: non-numeric argument, or extraneous/unrecognized suffix -- "
		       "%s\n",
		       text);
	return r;
}

int ox_cli_io_parse_length(const char *text, uint64_t *ret)
{
	uint64_t length;
	int r = ox_cli_io_parse_number(text, &length);

	if (r < 0)
		return r;
	if (length > OX_CLI_IO_REQUEST_MAX) {
		printf("length cannot exceed %llu, given %s\n", OX_CLI_IO_REQUEST_MAX, text);
		return -EINVAL;
	}
	*ret = length;
	return 0;
}

int ox_cli_io_parse_pattern(const char *text, int *ret)
{
	char *end;
	long value;

	errno = 0;
	value = strtol(text, &end, 0);
	if (errno || end == text || *end || value < 0 || value > UINT8_MAX) {
		printf("%s is not a valid pattern byte\n", text);
		return -EINVAL;
	}
	*ret = (int)value;
	return 0;
}

static double seconds_since(const struct timespec *start)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (double)(now.tv_sec - start->tv_sec) + (double)(now.tv_nsec - start->tv_nsec) / 1e9;
}

/* h:mm:ss.cc; short of a minute "ss.cc sec", unless it is for a machine. */
static void time_text(double seconds, bool machine, char *buf, size_t size)
{
	unsigned long long hundredths = (unsigned long long)(seconds * 100);
	unsigned long long whole = hundredths / 100;

	if (machine || whole >= 60)
		snprintf(buf, size, "%llu:%02llu:%02llu.%02llu", whole / 3600, whole / 60 % 60,
			 whole % 60, hundredths % 100);
	else
		snprintf(buf, size, "%02llu.%02llu sec", whole, hundredths % 100);
}

void ox_cli_io_report(const struct ox_cli_io_report *report)
{
	double seconds = seconds_since(&report->start);
	double rate, ops;
	char total[OX_CLI_SIZE_MAX], per_second[OX_CLI_SIZE_MAX], duration[64];

	/* The clock may not have moved. */
	if (seconds < 1e-9)
		seconds = 1e-9;
	rate = (double)report->length / seconds;
	ops = 1 / seconds;
	time_text(seconds, report->machine, duration, sizeof(duration));
	if (report->machine) {
		printf("%" PRIu64 ",1,%s,%.3f,%.3f\n", report->length, duration, rate, ops);
		return;
	}
	printf("%s %" PRIu64 "/%" PRIu64 " bytes at offset %" PRIu64 "\n", report->verb,
	       report->length, report->length, report->offset);
	printf("%s, 1 ops; %s (%s/sec and %.4f ops/sec)\n",
	       ox_cli_io_count_text((double)report->length, total), duration,
	       ox_cli_io_count_text(rate, per_second), ops);
}

void ox_cli_io_dump(const uint8_t *buf, size_t count, uint64_t offset)
{
	for (size_t at = 0; at < count; at += DUMP_WIDTH) {
		size_t width = count - at < DUMP_WIDTH ? count - at : DUMP_WIDTH;

		printf("%08" PRIx64 ":  ", offset + at);
		for (size_t i = 0; i < width; i++)
			printf("%02x ", buf[at + i]);
		putchar(' ');
		for (size_t i = 0; i < width; i++)
			putchar(buf[at + i] < 0x80 && isalnum(buf[at + i]) ? buf[at + i] : '.');
		putchar('\n');
	}
}
