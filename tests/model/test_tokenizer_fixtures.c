/* Real vocabularies and a matrix of small tokenizers, with ids recorded from another
 * implementation. The recordings are kept beside the checkout; without them this test is skipped.
 */
#include <dirent.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define CHECK SC_BIN_DIR "/tokenizer-check"

/* Runs tokenizer-check with up to 3 arguments (NULL: none); its exit status, -1 when it has none.
 */
static int check(const char *a, const char *b, const char *c)
{
    fflush(stdout);
    pid_t pid = fork();
    if (pid == 0) {
        execl(CHECK, CHECK, a, b, c, (char *)NULL);
        perror(CHECK);
        _exit(127);
    }
    int status = -1;
    if (pid < 0 || waitpid(pid, &status, 0) != pid || !WIFEXITED(status))
        return -1;
    return WEXITSTATUS(status);
}

static bool run_family(const char *name)
{
    char json[1024], cases[1024], decode[1024];
    snprintf(json, sizeof(json), "%s/tokenizers/%s/tokenizer.json.gz", SC_FIXTURES_DIR, name);
    snprintf(cases, sizeof(cases), "%s/tokenizers/%s/cases.jsonl", SC_FIXTURES_DIR, name);
    snprintf(decode, sizeof(decode), "%s/tokenizers/%s/decode_cases.jsonl", SC_FIXTURES_DIR, name);
    return check(json, cases, decode) == 0;
}

/* Every file is exact or refused. The number of files, and how many failed. */
static int run_matrix(int *ret_failed)
{
    int n = 0;
    DIR *dir = opendir(SC_FIXTURES_DIR "/tokenizer-matrix");
    for (struct dirent *e; dir && (e = readdir(dir)) != NULL;) {
        char path[1024];
        if (!strstr(e->d_name, ".json"))
            continue;
        snprintf(path, sizeof(path), "%s/tokenizer-matrix/%s", SC_FIXTURES_DIR, e->d_name);
        int rc = check("--matrix", path, NULL);
        *ret_failed += rc != 0 && rc != 2;
        n++;
    }
    if (dir)
        closedir(dir);
    return n;
}

int main(void)
{
    static const char *const families[] = {"llama3",
                                           "qwen3",
                                           "mistral-v0.1",
                                           "mistral-v0.3",
                                           "llama2",
                                           "phi3",
                                           "phi4",
                                           "gpt2",
                                           "phi2",
                                           "starcoder2",
                                           "deepseek-coder",
                                           "gemma-structure",
                                           "tekken-structure"};
    int failed = 0;
    if (access(SC_FIXTURES_DIR "/tokenizers", R_OK) != 0) {
        printf("SKIPPED: no recordings at %s/tokenizers\n", SC_FIXTURES_DIR);
        return 77;
    }
    for (size_t i = 0; i < sizeof(families) / sizeof(families[0]); i++)
        failed += !run_family(families[i]);
    failed += check(SC_FIXTURES_DIR "/stories260K/hf/tokenizer.json",
                    SC_FIXTURES_DIR "/stories260K/hf/tok_cases.jsonl", NULL) != 0;
    int n_matrix = run_matrix(&failed);
    printf("%d of the matrix, %d failures\n", n_matrix, failed);
    return failed > 0 || n_matrix == 0 ? 1 : 0;
}
