/* Runs a program from a file system of its own, which answers for as long as this process is not stopped: held_up
 * PROGRAM [ARGUMENT…]. To be run in a mount namespace that the caller has made. Protocol: include/uapi/linux/fuse.h. */
#include <errno.h>
#include <fcntl.h>
#include <linux/fuse.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <unistd.h>

enum { FILE_NODE = 2, MAX_WRITE = 4096, CACHED_SECONDS = 60 };

static int device;
static int program;
static struct stat program_status;

static int check(int result, const char *where)
{
    if (result < 0) {
        printf("error=%s: %s\n", where, strerror(errno));
        fflush(stdout);
        exit(1);
    }
    return result;
}

static void answer(uint64_t unique, int error, void *body, size_t length)
{
    struct fuse_out_header head = {.len = sizeof head + length, .error = error, .unique = unique};
    struct iovec parts[] = {{&head, sizeof head}, {body, length}};
    check(writev(device, parts, 2), "writev");
}

/* Attributes are never cached: every stat() has to ask. */
static struct fuse_attr attributes(uint64_t node)
{
    if (node != FILE_NODE)
        return (struct fuse_attr){.ino = node, .nlink = 1, .mode = S_IFDIR | 0555};
    return (struct fuse_attr){.ino = node, .size = program_status.st_size, .nlink = 1, .mode = S_IFREG | 0555};
}

static void answer_read(const struct fuse_in_header *head)
{
    static char bytes[1 << 20];
    const struct fuse_read_in *wanted = (const void *)(head + 1);
    size_t size = wanted->size < sizeof bytes ? wanted->size : sizeof bytes;
    answer(head->unique, 0, bytes, check(pread(program, bytes, size, wanted->offset), "pread"));
}

static void *serve(void *unused)
{
    static char request[1 << 20];
    const struct fuse_in_header *head = (const void *)request;
    (void)unused;
    while (read(device, request, sizeof request) > 0) {
        struct fuse_init_out init = {.major = 7, .minor = 31, .max_write = MAX_WRITE};
        struct fuse_entry_out entry = {.nodeid = FILE_NODE, .entry_valid = CACHED_SECONDS};
        struct fuse_attr_out attr = {.attr = attributes(head->nodeid)};
        struct fuse_open_out open = {.fh = 1};
        entry.attr = attributes(FILE_NODE);
        switch (head->opcode) {
        case FUSE_INIT:
            answer(head->unique, 0, &init, sizeof init);
            break;
        case FUSE_LOOKUP:
            answer(head->unique, 0, &entry, sizeof entry);
            break;
        case FUSE_GETATTR:
            answer(head->unique, 0, &attr, sizeof attr);
            break;
        case FUSE_OPEN:
            answer(head->unique, 0, &open, sizeof open);
            break;
        case FUSE_READ:
            answer_read(head);
            break;
        case FUSE_FORGET:
        case FUSE_BATCH_FORGET:
        case FUSE_INTERRUPT:
            break;
        default:
            answer(head->unique, -ENOSYS, NULL, 0);
        }
    }
    return NULL;
}

int main(int argc, char **argv)
{
    char options[128];
    pthread_t server;
    if (argc < 2)
        return 2;
    program = check(open(argv[1], O_RDONLY | O_CLOEXEC), argv[1]);
    check(fstat(program, &program_status), "fstat");
    device = check(open("/dev/fuse", O_RDWR | O_CLOEXEC), "/dev/fuse");
    snprintf(options, sizeof options, "fd=%d,rootmode=40555,user_id=0,group_id=0,allow_other", device);
    check(mount("held", "/mnt", "fuse", MS_NOSUID | MS_NODEV, options), "mount");
    pthread_create(&server, NULL, serve, NULL);
    pid_t child = check(fork(), "fork");
    if (child == 0) {
        execv("/mnt/program", argv + 1);
        _exit(127);
    }
    int status;
    check(waitpid(child, &status, 0), "waitpid");
    return !WIFEXITED(status) || WEXITSTATUS(status) != 0;
}
