/* An image's own init, and every other program of the tests' guests. */
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

/* Takes memory until it is stopped. */
static int eat(void) {
    for (;;) {
        char *piece = malloc(1 << 20);
        if (!piece) return 1;
        memset(piece, 1, 1 << 20);
    }
}

/* Returns how many children could be started, of 32. */
static int fork_many(void) {
    int started = 0;
    for (int i = 0; i < 32; i++) {
        pid_t pid = fork();
        if (pid == 0) for (;;) pause();
        if (pid > 0) started++;
    }
    return started;
}

int main(int argc, char **argv) {
    if (argc > 1 && !strcmp(argv[1], "eat")) return eat();
    if (argc > 1 && !strcmp(argv[1], "fork")) return fork_many();
    if (argc > 1) /* "sleep": any other argument makes a program that does nothing for ever */
        for (;;) pause();
    /* An init that tidies up: systemd closes what it inherits and leaves nothing mounted over. */
    for (int fd = 3; fd < 256; fd++) close(fd);
    write(1, "the image's init runs\n", 22);
    for (;;)
        if (wait(0) < 0) pause();
}
