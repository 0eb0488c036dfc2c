/* tests/fuzz/replay_main.c - runs a fuzz target over the files of its corpus, where there is no
 * libFuzzer. Arguments: directories and files. Fails when there is nothing to run. */
#include <dirent.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define FILE_BYTES_MAX ((size_t)16 << 20)

/* Runs one file; false after saying what is wrong. */
static int run_file(const char *path)
{
    FILE *f = fopen(path, "rb");
    uint8_t *data = malloc(FILE_BYTES_MAX), *exact = NULL;
    size_t n = f && data ? fread(data, 1, FILE_BYTES_MAX, f) : 0;
    int ok = f && data && !ferror(f) && n < FILE_BYTES_MAX;
    /* Its own allocation, so that a sanitizer sees the first byte read past the end. */
    if (ok)
        exact = realloc(data, n > 0 ? n : 1);
    if (exact) {
        LLVMFuzzerTestOneInput(exact, n);
        data = exact;
    } else {
        fprintf(stderr, "%s: cannot be read, or is over %zu bytes\n", path, FILE_BYTES_MAX);
    }
    free(data);
    if (f)
        fclose(f);
    return exact != NULL;
}

/* The number of files run, -1 on failure. */
static long run_path(const char *path)
{
    struct stat info;
    if (stat(path, &info) != 0) {
        perror(path);
        return -1;
    }
    if (!S_ISDIR(info.st_mode))
        return run_file(path) ? 1 : -1;
    DIR *dir = opendir(path);
    long n = dir ? 0 : -1;
    for (struct dirent *e; n >= 0 && (e = readdir(dir)) != NULL;) {
        char name[4096];
        if (e->d_name[0] == '.')
            continue;
        int len = snprintf(name, sizeof(name), "%s/%s", path, e->d_name);
        n = len > 0 && (size_t)len < sizeof(name) && run_file(name) ? n + 1 : -1;
    }
    if (dir)
        closedir(dir);
    return n;
}

int main(int argc, char **argv)
{
    long total = 0;
    for (int i = 1; i < argc; i++) {
        long n = run_path(argv[i]);
        if (n < 0)
            return 1;
        total += n;
    }
    printf("%ld inputs\n", total);
    return total > 0 ? 0 : 1;
}
